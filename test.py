"""Measure a trained model on test records, or gender predictions for LFW.

Prints the mean absolute error of the age (years), the gender accuracy and the loss for each batch
and for all records; --report also writes a page of plots and of figures by age, gender and race
label, with their intervals. With --lfw it compares a CSV of predictions with the LFW gender lists
instead, first as the original experiment did, then without the errors in the lists.

examples:
  python test.py
  python test.py --views data/utkface_views.npz --report report
  python test.py --test data/children_test.tfrecords
  python test.py --lfw lfw_predictions.csv --lfw-labels lfw_gender
"""

import os
import sys

if __name__ == "__main__":
    sys.path.append(os.path.dirname(__file__))  # python -P leaves it out
    from age_gender.processes import startup

    startup.begin()  # errors and Ctrl-C take one line from here on, during the imports too
# isort: split
import argparse
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from age_gender import cli, files, metrics, paths, trained_models, view_files
from age_gender.embedding_space import is_out_of_distribution
from age_gender.errors import InputError, error_line
from age_gender.files import base_name
from age_gender.labels import ADULT_AGE, AGE_CLASSES, GENDERS
from age_gender.processes.tensorflow_import import import_tensorflow
from age_gender.report import lfw, measurement, page, robustness
from age_gender.scoring import predictions
from age_gender.scoring.scorer import Scorer

if TYPE_CHECKING:  # these imports take time
    import pandas as pd

    from age_gender.training.records import Records


def main(argv: list[str] | None = None) -> None:
    args = parse_arguments(argv)
    if args.lfw:
        measure_lfw(args.lfw, args.lfw_labels)
    else:
        measure_records(args)


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = cli.ArgumentParser(__doc__)
    # fmt: off
    add = parser.add_argument
    add("--test", type=Path, default=paths.TEST_RECORDS, metavar="FILE",
        help="records that prepare.py wrote")
    add("--model", metavar="PATH",
        help="a folder that train.py wrote, or its .keras (default: models/ once train.py has "
        "written there, else models/facenet/)")
    add("--batch-size", type=cli.whole_number(1), default=128, metavar="N",
        help="faces per printed line")
    add("--report", type=Path, metavar="DIR",
        help="folder for report.html, its plots, figures.json and tables.md; what is there is "
        "replaced")
    add("--views", type=Path, metavar="NPZ",
        help="also measure each crop of the faces (a file that embed.py --views wrote)")
    add("--lfw", type=Path, metavar="CSV",
        help="CSV that run.py wrote for LFW, compared with --lfw-labels instead of measuring "
        "records")
    add("--lfw-labels", type=Path, metavar="DIR",
        help="gender lists of LFW: folder with male_names.txt and female_names.txt (needed by "
        "--lfw)")
    # fmt: on
    args = parser.parse_args(argv)
    if bool(args.lfw) != bool(args.lfw_labels):
        parser.error("--lfw and --lfw-labels go together")
    if args.lfw and (args.report or args.views):
        parser.error("--report and --views do not apply to --lfw; leave them out")
    return args


def measure_records(args: argparse.Namespace) -> None:
    """Print a line per batch, the summary and a line per crop; write the report."""
    model = trained_models.find_model_file(args.model, trained_models.KERAS_MODEL)
    if args.report:
        page.prepare_folder(args.report)
    if args.report or args.views:
        exported = trained_models.find_model_file(args.model, trained_models.LITERT_MODEL)
    views = view_files.read_views(args.views) if args.views else None

    # Print batches and summary, by the Keras model
    import_tensorflow()
    from age_gender.training import records

    cli.say(f"model: {cli.display_path(model)}")
    faces = records.read(args.test)
    softmax = predict(model, faces.features)
    age = metrics.compute_expected_age(softmax["age"])
    is_right = metrics.is_gender_right(softmax["gender"][:, 1], faces.gender)
    labels = {"age": faces.age, "gender": faces.gender}  # the loss counts children's genders, too
    rows = np.arange(len(age))
    loss = sum(-np.log(softmax[key][rows, label] + 1e-7) for key, label in labels.items())
    measured = metrics.compute_age_error(age, faces.age), is_right, loss
    for start in range(0, len(age), args.batch_size):
        print(format_line(*(values[start : start + args.batch_size] for values in measured)))
    print("Summary:", format_line(*measured), sep="\n")
    if not args.report and not args.views:
        return

    # Print crops and write the report, by the exported model
    scorer = Scorer(exported.read_bytes(), str(exported))
    by_crop = tabulate_crops(args.views, views, faces, scorer) if views else {}
    for crop, table in by_crop.items():
        print(f"{crop}: {format_crop(table)}")
    if args.report:
        labels_and_names = faces.age, faces.gender, faces.file_names
        table = measurement.tabulate_faces(*labels_and_names, scorer.score_by_name(faces.features))
        difference = check_same_model(model, exported, table.estimate, age)
        results = describe_measured_files(args, model, exported, table, difference)
        results["by_crop"] = [measurement.measure_variant(*crop) for crop in by_crop.items()]
        results["embedder"] = robustness.measure(
            faces.features, labels_and_names, scorer.score_by_name
        )
        page.write(args.report, results | measurement.measure(table, loss), table)
        cli.say(f"report: {cli.display_path(args.report / 'report.html')}")


def predict(model: Path, features: np.ndarray) -> dict[str, np.ndarray]:
    """Return the softmaxes "age" (n, 117) and "gender" (n, 2) of features (n, W).

    Raises InputError for another model, or features of another width.
    """
    import keras

    try:
        keras_model = keras.saving.load_model(model, compile=False, safe_mode=True)
        shapes = {key: output.shape[1:] for key, output in keras_model.output.items()}
        expected_shapes = {"age": (AGE_CLASSES,), "gender": (len(GENDERS),)}
        if shapes != expected_shapes or len(keras_model.input_shape) != 2:
            raise ValueError("other inputs or outputs")
        row = np.zeros((1, *keras_model.input_shape[1:]), np.float32)
        keras_model(row)  # fails if layers do not fit
    except Exception as error:  # Keras raises many types on a broken file and on other files
        reason = f"{type(error).__name__}: {error_line(error)[:200]}"
        raise InputError(
            f"{model}: not a model that these scripts can read ({reason}); run train.py again"
        ) from None
    expected, width = keras_model.input_shape[-1], features.shape[1]
    if width != expected:
        raise InputError(
            f"{model}: takes {expected} numbers per face, but the records have {width}; give the "
            "--test records of its network"
        )
    softmax = keras_model.predict(features, batch_size=1024, verbose=0)
    if not all(np.isfinite(values).all() for values in softmax.values()):
        raise InputError(f"{model}: this model returns NaN; train again")
    return softmax


def format_line(error: np.ndarray, is_right: np.ndarray, loss: np.ndarray) -> str:
    """Return the output line of faces: age errors in years, whether genders are right, losses."""
    return f"Age_MAE:{error.mean():.2f}, Gender_Acc:{is_right.mean():.2%}, Loss:{loss.mean():.2f}"


def format_crop(table: "pd.DataFrame") -> str:
    """Return the output line of faces through one crop, from measurement.tabulate_faces."""
    men, women = table.is_gender_right.groupby(table.gender).mean().reindex([0, 1])
    return (
        f"n {len(table)}, Age_MAE:{table.age_error.mean():.2f}, Men:{men:.2%}, Women:{women:.2%}, "
        f"In_Interval:{table.is_in_interval.mean():.2%}"
    )


def tabulate_crops(path: Path, views: view_files.Views, faces: "Records", scorer: Scorer) -> dict:
    """Return, by crop, a table of the records' faces and the exported model's scores.

    Raises InputError for views of other faces or of another network.
    """
    expected, width = faces.features.shape[1], views.embeddings.shape[-1]
    if width != expected:
        raise InputError(
            f"{path}: its embeddings have {width} numbers, the records' {expected}; give views of "
            "their network"
        )
    row_of = {base_name(name): row for row, name in enumerate(faces.file_names)}
    view_rows = [row for row, name in enumerate(views.names) if base_name(name) in row_of]
    if not view_rows:
        raise InputError(f"{path}: none of its faces is in the records; give views of their faces")
    rows = [row_of[base_name(views.names[row])] for row in view_rows]
    labels_and_names = faces.age[rows], faces.gender[rows], [faces.file_names[row] for row in rows]
    return {
        crop: measurement.tabulate_faces(
            *labels_and_names, scorer.score_by_name(views.embeddings[view_rows, number])
        )
        for number, crop in enumerate(views.crops)
    }


def check_same_model(model: Path, exported: Path, estimate: np.ndarray, age: np.ndarray) -> float:
    """Return the largest difference of the two models' ages (n,), in years.

    `estimate` are the exported model's. Raises InputError where the difference is over 0.01.
    """
    difference = float(np.abs(estimate - age).max())
    if difference > 0.01:
        raise InputError(
            f"{exported}: its ages differ from {model.name}'s by up to {difference:.2f} years; "
            "the two files come from different trainings; run train.py again"
        )
    return difference


def describe_measured_files(
    args: argparse.Namespace, model: Path, exported: Path, table: "pd.DataFrame", difference: float
) -> dict:
    """Return names and hashes of the measured files, and counts.

    `difference` is that of `check_same_model`.
    """

    def identify(path: Path | None) -> dict | None:
        return path and {"file": path.name, "sha256": files.sha256(path)}

    counts = {
        "faces": len(table),
        "under_10": int((table.age < ADULT_AGE).sum()),
        "out_of_distribution": int(is_out_of_distribution(table.distance).sum()),
    }
    models = {"litert": identify(exported), "keras": identify(model)}
    models["folder"] = exported.parent.name
    return {
        "model": models | {"largest_difference": round(difference, 6)},
        "records": identify(args.test) | counts,
        "views": identify(args.views),
    }


def measure_lfw(path: Path, folder: Path) -> None:
    """Print the two published lines, then the label files' faults and the figures without them."""
    rows = predictions.read(path, "filename", "gender")
    predicted = [(base_name(name), gender) for name, gender in rows]
    label_texts = [lfw.read_labels(folder / f"{gender}_names.txt") for gender in GENDERS]
    print(*lfw.report_published(predicted, label_texts), "", sep="\n")
    print(*lfw.report_without_faults(predicted, label_texts), sep="\n")


if __name__ == "__main__":
    cli.run(main)
