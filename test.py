"""Judge a trained model on the test records, or predictions of LFW's genders.

Prints mean absolute error of the age (years), gender accuracy and loss of each batch and of
all records; --report adds a page with plots, by age, gender and race label, each figure with
its interval. With --lfw it scores a CSV of predictions against the LFW gender lists instead,
as the original experiment did, and then with the lists' faults left out.

examples:
  python test.py
  python test.py --report report
  python test.py --lfw lfw_predictions.csv --lfw-labels lfw_gender
"""

from pathlib import Path
from typing import NamedTuple

from age_gender import script

# isort: split
import numpy as np

from age_gender import model_files, outputs
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
    add("--lfw", type=Path, metavar="CSV", help="predictions for LFW that run.py wrote")
    add("--lfw-labels", type=Path, metavar="DIR",
        help="folder with male_names.txt and female_names.txt")  # fmt: skip
    args = parser.parse_args(argv)
    if bool(args.lfw) != bool(args.lfw_labels):
        parser.error("--lfw and --lfw-labels go together")
    if args.lfw and args.report:
        parser.error("--report is of the test records, not of LFW: give one of the two")
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
    """Print a line a batch, and the summary over all samples; then the report, if asked for."""
    model = model_files.find_model(args.model, model_files.KERAS_MODEL)
    if args.report:
        page.check(args.report)
        exported = model_files.find_model(args.model, model_files.LITERT_MODEL)
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
    if args.report:
        write_report(args, faces, softmax, judged, model, exported)


def predict(model: Path, features: np.ndarray) -> dict[str, np.ndarray]:
    """The softmaxes "age" (n, 117) and "gender" (n, 2) of features (n, 512)."""
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


def write_report(args, faces, softmax, judged: Judgement, model: Path, exported: Path) -> None:
    """The report: ages, intervals and probabilities are the exported model's, as run.py's are."""
    scores = litert.Model(exported.read_bytes(), str(exported)).outputs(faces.features)
    difference = float(np.abs(scores["age"] - expected_age(softmax)).max())
    if difference > 0.01:
        raise InputError(
            f"{exported}: its ages differ from {model.name}'s by up to {difference:.2f} years; "
            "they are not of one training: train again with train.py"
        )
    labels = [utkface_labels(name) for name in faces.file_name]
    race = np.array([-1 if label is None or label[2] is None else label[2] for label in labels])
    judged_faces = figures.Faces(
        faces.age, faces.gender, race, scores["age"], np.rint(scores["age_low"]),
        np.rint(scores["age_high"]), scores["female_probability"],
    )  # fmt: skip
    measured = {
        "model": {
            "litert": identity(exported), "keras": identity(model),
            "largest_difference": round(difference, 6),
        },
        "records": identity(args.test) | {
            "faces": len(faces.age), "under_10": int((faces.age < 10).sum()),
            "strangers": int((scores["distance"] > 1).sum()),
        },
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
