"""Judge a trained model on the test records, or predictions of LFW's genders.

Prints mean absolute error of the age (years), gender accuracy and loss of each batch and of
all records; --report adds a page with plots, by age, gender and race label, each figure with
its interval. With --lfw it scores a CSV of predictions against the LFW gender lists instead,
as the original experiment did, and then with the lists' faults left out.

examples:
  python test.py
  python test.py --views data/utkface_views.npz --report report
  python test.py --test data/children_test.tfrecords
  python test.py --lfw lfw_predictions.csv --lfw-labels lfw_gender
"""

from pathlib import Path
from typing import NamedTuple

from age_gender import script

# isort: split
import numpy as np

from age_gender import crops, model_files, outputs
from age_gender.report import figures, lfw, page
from age_gender.scoring import litert, predictions
from age_gender.script import InputError
from age_gender.tables.names import AGES, GENDERS, base_name, utkface_labels


def main(argv: list[str] | None = None) -> None:
    args = parse_arguments(argv)
    if args.lfw:
        judge_lfw(args.lfw, args.lfw_labels)
    else:
        judge_records(args)


def parse_arguments(argv: list[str] | None):
    parser = script.ArgumentParser(__doc__)
    add = parser.add_argument
    add("--test", type=Path, default=model_files.TEST_RECORDS, metavar="FILE",
        help="records that prepare.py wrote")  # fmt: skip
    add("--model", metavar="PATH",
        help="a folder that train.py wrote, or its .keras (default: models/ once train.py has "
        "written there, else models/pretrained/)")  # fmt: skip
    add("--batch-size", type=script.whole_number(1), default=128, metavar="N", help="faces a line")
    add("--report", type=Path, metavar="DIR",
        help="folder for report.html, its plots and figures.json, which are replaced")  # fmt: skip
    add("--views", type=Path, metavar="NPZ",
        help="judge the faces in it through every crop too (of embed.py --views)")  # fmt: skip
    add("--lfw", type=Path, metavar="CSV", help="predictions for LFW that run.py wrote")
    add("--lfw-labels", type=Path, metavar="DIR",
        help="folder with male_names.txt and female_names.txt")  # fmt: skip
    args = parser.parse_args(argv)
    if bool(args.lfw) != bool(args.lfw_labels):
        parser.error("--lfw and --lfw-labels go together")
    if args.lfw and (args.report or args.views):
        parser.error("--report and --views are of the test records, not of LFW: give one of both")
    return args


class Judgement(NamedTuple):
    """Of each face: the error of its age in years, whether its gender is right, its loss."""

    error: np.ndarray
    right: np.ndarray
    loss: np.ndarray

    def line(self, faces: slice = slice(None)) -> str:
        mae, accuracy, loss = (values[faces].mean() for values in self)
        return f"Age_MAE:{mae:.2f}, Gender_Acc:{accuracy:.2%}, Loss:{loss:.2f}"


def judge_records(args) -> None:
    """Print a line a batch, the summary over all samples, and a line a crop; then the report."""
    model = model_files.find_model(args.model, model_files.KERAS_MODEL)
    if args.report:
        page.check(args.report)
    if args.report or args.views:
        exported = model_files.find_model(args.model, model_files.LITERT_MODEL)
    views = crops.read(args.views) if args.views else None
    script.import_tensorflow()
    from age_gender import records

    script.say(f"model: {script.display_path(model)}")
    faces = records.read(args.test)
    softmax = predict(model, faces.features)
    judged = judge(faces, softmax)
    for start in range(0, len(faces.age), args.batch_size):
        print(judged.line(slice(start, start + args.batch_size)))
    print("Summary:")
    print(judged.line())
    through = judge_crops(args.views, views, faces, exported) if views else {}
    for crop, seen in through.items():
        print(crop_line(crop, seen))
    if args.report:
        write_report(args, faces, softmax, judged, model, exported, through)


def predict(model: Path, features: np.ndarray) -> dict[str, np.ndarray]:
    """The softmaxes "age" (n, 117) and "gender" (n, 2) of features (n, W)."""
    import keras

    try:
        network = keras.saving.load_model(model, compile=False, safe_mode=True)
        shapes = {key: output.shape[1:] for key, output in network.output.items()}
        if shapes != {"age": (AGES,), "gender": (len(GENDERS),)}:
            raise ValueError("other outputs")
    except Exception as error:  # Keras raises many kinds on a broken or foreign file
        reason = f"{type(error).__name__}: {script.error_line(error)[:200]}"
        raise InputError(
            f"{model}: not a model that these scripts can read ({reason}); "
            "train again with train.py"
        ) from None
    return network.predict(features, batch_size=1024, verbose=0)


def judge(faces, softmax: dict[str, np.ndarray]) -> Judgement:
    """Loss is age cross-entropy + gender cross-entropy, both with the label as it is."""
    rows = np.arange(len(faces.age))
    age_loss = -np.log(softmax["age"][rows, faces.age] + 1e-7)
    gender_loss = -np.log(softmax["gender"][rows, faces.gender] + 1e-7)
    return Judgement(
        error=np.abs(expected_age(softmax) - faces.age),
        right=softmax["gender"].argmax(axis=1) == faces.gender,
        loss=age_loss + gender_loss,
    )


def expected_age(softmax: dict[str, np.ndarray]) -> np.ndarray:
    """In years, (n,): each age times its probability."""
    return softmax["age"] @ np.arange(AGES, dtype=np.float32)


def judge_crops(path: Path, views: crops.Views, faces, exported: Path) -> dict[str, figures.Faces]:
    """The faces of the records that are in the views, as the exported model sees each crop."""
    place = {base_name(name): row for row, name in enumerate(faces.file_name)}
    found = [row for row, name in enumerate(views.names) if base_name(name) in place]
    if not found:
        raise InputError(f"{path}: holds no face of these records; give the views of these faces")
    rows = [place[base_name(views.names[row])] for row in found]
    model = litert.Model(exported.read_bytes(), str(exported))
    of_faces = faces.age[rows], faces.gender[rows], [faces.file_name[row] for row in rows]
    return {
        crop: as_seen(*of_faces, model.outputs(views.embeddings[found, number]))
        for number, crop in enumerate(views.crops)
    }


def as_seen(age: np.ndarray, gender: np.ndarray, names: list[str], scores: dict) -> figures.Faces:
    """Faces with their labels, and what run.py would print of them."""
    labels = [utkface_labels(name) for name in names]
    race = np.array([-1 if label is None or label[2] is None else label[2] for label in labels])
    return figures.Faces(
        age, gender, race, scores["age"], np.rint(scores["age_low"]),
        np.rint(scores["age_high"]), scores["female_probability"],
    )  # fmt: skip


def crop_line(crop: str, faces: figures.Faces) -> str:
    values = figures.per_face(faces)
    men, women = (values.gender_accuracy[faces.gender == gender].mean() for gender in (0, 1))
    return (
        f"{crop}: n {len(values)}, Age_MAE:{values.age_mae.mean():.2f}, Men:{men:.2%}, "
        f"Women:{women:.2%}, In_Interval:{values.interval_coverage.mean():.2%}"
    )


def write_report(
    args, faces, softmax, judged: Judgement, model: Path, exported: Path,
    through: dict[str, figures.Faces],
) -> None:  # fmt: skip
    """The report: ages, intervals and probabilities are the exported model's, as run.py's are."""
    scores = litert.Model(exported.read_bytes(), str(exported)).outputs(faces.features)
    difference = float(np.abs(scores["age"] - expected_age(softmax)).max())
    if difference > 0.01:
        raise InputError(
            f"{exported}: its ages differ from {model.name}'s by up to {difference:.2f} years; "
            "they are not of one training: train again with train.py"
        )
    judged_faces = as_seen(faces.age, faces.gender, faces.file_name, scores)
    measured = {
        "model": {
            "litert": identity(exported), "keras": identity(model),
            "largest_difference": round(difference, 6),
        },
        "records": identity(args.test) | {
            "faces": len(faces.age), "under_10": int((faces.age < 10).sum()),
            "strangers": int((scores["distance"] > 1).sum()),
        },
        "views": identity(args.views) if args.views else None,
        "by_crop": [figures.of_crop(crop, seen) for crop, seen in through.items()],
        **figures.measure(judged_faces, softmax["age"], judged.loss),
    }  # fmt: skip
    page.write(args.report, measured, judged_faces)
    script.say(f"report: {script.display_path(args.report / 'report.html')}")


def identity(file: Path) -> dict[str, str]:
    return {"file": file.name, "sha256": outputs.sha256(file)}


def judge_lfw(path: Path, folder: Path) -> None:
    """Print the two published lines, then the label files' faults and the figures without."""
    rows = predictions.read(path, "filename", "gender")
    predicted = [(base_name(name), gender) for name, gender in rows]
    labels = [lfw.read_labels(folder / f"{gender}_names.txt") for gender in GENDERS]
    print(*lfw.published(predicted, labels), "", sep="\n")
    print(*lfw.without_faults(predicted, labels), sep="\n")


if __name__ == "__main__":
    script.run(main)
