"""Train the network on records of faces; write the model that test.py and run.py load.

Every epoch shows half of the faces through other crops, by what --views tell of them. Of --children
the ages are learnt, not the genders. A fifth of the faces is first held out: a network trained on
the others gives the validation figures and the calibration. The network that is written is then
trained on all of them. Writes age_gender.keras, .tflite and .json.

examples:
  python train.py
  python train.py --epochs 5 --models /tmp/quick
  python train.py --views none --children none
  python train.py --resume
  tensorboard --logdir logs
"""

import os
import sys

if __name__ == "__main__":
    sys.path[:0] = [os.path.dirname(__file__)] * sys.flags.safe_path  # python -P leaves it out
    from age_gender import startup

    startup.begin()
# isort: split
import argparse
import contextlib
import importlib.util
import itertools
import platform
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import threadpoolctl

from age_gender import checkpoints, cli, crops, embedding_space, files, heads, metrics, paths
from age_gender.cli import InputError

VALIDATION = 0.2  # share of the faces that is held out first
ABSENT = {  # what it means that a default input is not there
    "children": "training without children (prepare.py writes them)",
    "views": "training without other crops (embed.py --aligned --views makes them)",
}
NONE = Path("none")
# What --resume must find again.
SETTINGS = ("epochs", "batch_size", "learning_rate", "whitening", "crop_share", "seed")


def main(argv: list[str] | None = None) -> None:
    args = parse_arguments(argv)
    started = time.monotonic()
    inputs = find_inputs(args)
    cli.import_tensorflow()
    import keras
    import tensorflow as tf

    import network_conv

    tf.config.experimental.enable_op_determinism()  # the same seed gives the same figures
    keras.utils.clear_session()  # so that layers have the same names in every training
    faces, grown = read_faces(args, inputs)
    settings = {name: path and files.sha256(path) for name, path in inputs.items()}
    settings |= {key: getattr(args, key) for key in SETTINGS}
    for folder in (args.models, args.logs):
        files.make_folder(folder)
    work = args.models / ".training"
    open_work(work, settings, args.resume)
    unit, space, held, maps = learn_crops(faces, grown, args, inputs["views"])
    front = network_conv.build_front(space, args.whitening)
    maps = maps and maps.moved(front.get_layer("principal_axes").get_weights()[0], space.mean)
    principal = front.predict(unit, batch_size=4096, verbose=0)
    everything = Faces(principal, faces.age, faces.gender, grown)
    held_out, rest = everything.at(held), everything.at(~held)

    fit_started = time.monotonic()
    steps = min(-(-len(unit) // args.batch_size), len(rest.age))  # of an epoch, in both trainings
    network = fit(rest, maps, steps, args, work / "validation.npz", held_out)
    softmax = network.predict(held_out.principal, batch_size=1024, verbose=0)
    validation = judge(softmax, held_out)
    calibration = network_conv.calibrate(softmax, *held_out[1:])
    network = fit(everything, maps, steps, args, work / "final.npz")
    fit_seconds = round(time.monotonic() - fit_started, 1)

    scorer = network_conv.build_scorer(front, network, calibration, space)
    exported = network_conv.to_litert(scorer)
    description = {
        "settings": settings,
        "faces": int(grown.sum()),
        "children": int((~grown).sum()),
        "crops": len(maps.matrices) if maps else 0,
        "epochs": args.epochs,
        "embeddings": {"dimensions": unit.shape[1], "subspace": space.count,
                       "effective_rank": round(space.effective_rank, 1)},
        "calibration": calibration._asdict(),
        "validation": validation,
        "fit": {"seconds": fit_seconds, "steps": 2 * steps * args.epochs},
        "versions": {"python": platform.python_version()}
        | {module.__name__: module.__version__ for module in (tf, keras, np)},
        "seconds": round(time.monotonic() - started, 1),
    }  # fmt: skip
    whole = keras.Model(front.input, network(front.output), name="age_gender")
    heads.write_model(args.models, whole, exported, description)
    checkpoints.remove_folder(work)
    cli.say(f"model: {cli.display_path(args.models)} ({time.monotonic() - started:.0f} s)")


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = cli.ArgumentParser(__doc__)
    add, whole_number = parser.add_argument, cli.whole_number
    add("--train", type=Path, default=paths.TRAIN_RECORDS, metavar="FILE",
        help="records that prepare.py wrote")  # fmt: skip
    add("--children", type=Path, default=paths.CHILDREN_RECORDS, metavar="FILE",
        help="records of the faces under --min-age, as a rule beside --train, or none")  # fmt: skip
    add("--views", type=Path, default=paths.VIEWS, metavar="NPZ",
        help="faces through several crops, of embed.py --views, or none")  # fmt: skip
    add("--models", type=Path, default=paths.MODELS, metavar="DIR",
        help="folder for the model")  # fmt: skip
    add("--epochs", type=whole_number(1), default=24, metavar="N", help="passes over the records")
    add("--batch-size", type=whole_number(1), default=512, metavar="N",
        help="faces a step, at most")  # fmt: skip
    add("--learning-rate", type=cli.positive, default=2e-2, metavar="X",
        help="AdamW's highest learning rate; it rises to it and falls as a cosine")  # fmt: skip
    add("--whitening", type=cli.share, default=0.5, metavar="X",
        help="how far principal components are made alike: 0 not at all, 1 wholly")  # fmt: skip
    add("--crop-share", type=cli.share, default=0.5, metavar="X",
        help="share of the faces that another crop shows in an epoch")  # fmt: skip
    add("--seed", type=whole_number(0, 2**32 - 1), default=0, metavar="N",
        help="seed of the weights, the shuffles, the crops and what is held out")  # fmt: skip
    add("--resume", action="store_true", help="go on with an interrupted training")
    add("--logs", type=Path, default=paths.LOGS, metavar="DIR",
        help="folder for the curves, as CSV and for TensorBoard")  # fmt: skip
    return parser.parse_args(argv)


def open_work(work: Path, settings: dict, resume: bool) -> None:
    """The folder of an interrupted training, empty without `resume`; InputError for another's."""
    anew = "train anew without --resume"
    if resume and not (work / checkpoints.SETTINGS).exists():
        cli.say("nothing to resume: training from the start")
    if changed := checkpoints.open_folder(work, settings, resume, anew):
        had = f"the interrupted training had another {', '.join(changed)}"
        raise InputError(f"{work}: {had}; give the same, or {anew}")


class Faces(NamedTuple):
    """Principal components float32 (n, W), ages and genders (n,), who is no child (n,)."""

    principal: np.ndarray
    age: np.ndarray
    gender: np.ndarray
    grown: np.ndarray

    def at(self, places) -> "Faces":
        return Faces(*(values[places] for values in self))

    def for_keras(self) -> tuple:
        """Inputs, labels, and their weights: a child's gender is not learnt."""
        weights = {"age": np.ones(len(self.age), np.float32), "gender": self.grown.astype("f4")}
        return self.principal, {"age": self.age, "gender": self.gender}, weights


def find_inputs(args: argparse.Namespace) -> dict[str, Path | None]:
    """The paths of the inputs; None for one that is `none`, or by default and not there.

    Raises InputError for another path that is not there.
    """
    children = args.train.with_name(paths.CHILDREN_RECORDS.name)
    if args.children == paths.CHILDREN_RECORDS:
        args.children = children  # of the same table
    inputs: dict[str, Path | None] = {"train": args.train}
    for name, default in (("children", children), ("views", paths.VIEWS)):
        path = getattr(args, name)
        inputs[name] = path if path != NONE and path.is_file() else None
        if inputs[name] is None and path not in (NONE, default):
            raise InputError(f"{path}: no such file; give another, or none to train without")
    return inputs


def read_faces(args: argparse.Namespace, inputs: dict[str, Path | None]):
    """The records of faces and of children, and which of them are no children (n,)."""
    from age_gender import records

    parts = [records.read(path) for path in (args.train, inputs["children"]) if path]
    widths = [part.features.shape[1] for part in parts]
    if widths[-1] != widths[0]:
        raise InputError(
            f"{args.children}: embeddings of {widths[1]} numbers, and of {widths[0]} in "
            f"{args.train}; prepare both from one table, or give --children none"
        )
    for name, meaning in ABSENT.items():
        path = getattr(args, name)
        if inputs[name] is None and path != NONE:
            cli.say(f"{cli.display_path(path)}: not there: {meaning}")
    faces = records.Records(*map(np.concatenate, zip(*parts, strict=True)))
    return faces, np.arange(len(faces.age)) < len(parts[0].age)


def learn_crops(faces, grown: np.ndarray, args: argparse.Namespace, views: Path | None):
    """Unit-length embeddings (n, W), their space, who is held out (n,), the maps to other crops."""
    # However many threads the environment grants: another number of them rounds otherwise.
    with threadpoolctl.threadpool_limits(2, user_api="blas"):
        heading = f"{len(faces.age)} faces; embeddings of "
        unit, space = embedding_space.examine(
            faces.features, faces.file_name, str(args.train), heading
        )
        held = hold_out(faces.file_name, grown, args)
        maps = views and crops.learn(views, space, faces.file_name, held)
        if maps:  # the space is that of all crops
            mapped = crops.draw(unit, maps, np.random.default_rng(args.seed), share=1)
            space = embedding_space.measure(np.concatenate([unit, mapped]))
    return unit, space, held, maps


def hold_out(names: list[str], grown: np.ndarray, args: argparse.Namespace) -> np.ndarray:
    """Which rows (n,) are held out: VALIDATION of the faces, drawn at random, in all views."""
    random = np.random.default_rng(args.seed)
    held = np.zeros(len(names), bool)
    number = np.unique(np.array(names, object), return_inverse=True)[1]
    for part in (grown, ~grown):
        faces = random.permutation(np.unique(number[part]))
        held |= part & np.isin(number, faces[: int(np.ceil(VALIDATION * len(faces)))])
    if held.all():
        raise InputError(f"{args.train}: {held.sum()} face is too few to train on; prepare more")
    return held


def fit(
    faces: Faces, maps: crops.Maps | None, steps: int, args: argparse.Namespace, state: Path,
    held_out: Faces | None = None,
):  # fmt: skip
    """The heads, trained on faces anew or from the `state` that is saved every epoch.

    It does not stop early: of 8 epochs without crops the last was the best, or within 0.003 years
    of it (eight trainings); with crops the age error of held-out faces falls to the end.
    """
    import keras

    import network_conv

    keras.utils.set_random_seed(args.seed)
    network = network_conv.build_network(faces.principal.shape[1])
    trainer = network_conv.compiled(network, steps, args.epochs, args.learning_rate)
    if state.exists():
        checkpoints.restore(state, trainer)
    done = int(trainer.optimizer.iterations) // steps
    if done == args.epochs:
        return network
    callbacks = [
        keras.callbacks.CSVLogger(args.logs / f"{state.stem}.csv", append=done > 0),
        keras.callbacks.LambdaCallback(on_epoch_end=lambda *_: checkpoints.save(state, trainer)),
    ]
    if importlib.util.find_spec("tensorboard"):
        callbacks.insert(0, keras.callbacks.TensorBoard(args.logs / state.stem, write_graph=False))
    cli.say(f"{state.stem}: {len(faces.age)} faces")
    with contextlib.redirect_stdout(sys.stderr):  # Keras's progress is no data
        trainer.fit(
            batches(faces, maps, range(done, args.epochs), steps, args),
            shuffle=False,  # batches() does
            steps_per_epoch=steps,
            initial_epoch=done,
            epochs=args.epochs,
            validation_data=held_out and held_out.for_keras(),
            validation_batch_size=1024,
            callbacks=callbacks,
            verbose=1 if sys.stderr.isatty() else 2,
        )
    return network


def batches(
    faces: Faces, maps: crops.Maps | None, epochs: range, steps: int, args: argparse.Namespace
) -> Iterator[tuple]:
    """What Keras takes: `steps` parts of each epoch's faces, as equal in size as can be.

    What is random in an epoch, the order and the crops, follows from the seed and its number.
    """
    for epoch in epochs:
        random = np.random.default_rng([args.seed, epoch])
        drawn = faces.at(random.permutation(len(faces.age)))
        if maps:
            seen = crops.draw(drawn.principal, maps, random, args.crop_share)
            drawn = drawn._replace(principal=seen)
        ends = np.arange(steps + 1) * len(drawn.age) // steps
        for start, end in itertools.pairwise(ends):
            yield drawn.at(slice(start, end)).for_keras()


def judge(softmax: dict[str, np.ndarray], faces: Faces) -> dict[str, float]:
    """Figures of held-out faces by their softmaxes, which it also says."""
    error = metrics.age_error(metrics.expected_age(softmax["age"]), faces.age)
    right = metrics.gender_is_right(softmax["gender"][:, 1], faces.gender)
    grown, young = error[faces.grown], error[~faces.grown]
    mae, accuracy = float(grown.mean()), float(right[faces.grown].mean())
    cli.say(f"held out: age MAE {mae:.2f} years, gender accuracy {accuracy:.2%}")
    figures = {"faces": len(grown), "age_mae": round(mae, 3), "gender_accuracy": round(accuracy, 4)}
    if len(young):
        mae = float(young.mean())
        cli.say(f"held-out children: age MAE {mae:.2f} years")
        figures |= {"children": len(young), "children_age_mae": round(mae, 3)}
    return figures


if __name__ == "__main__":
    cli.run(main)
