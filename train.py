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

import argparse
import contextlib
import importlib.util
import itertools
import platform
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from age_gender import script

# isort: split
import numpy as np
import threadpoolctl

from age_gender import checkpoints, crops, kinds, model_files, outputs
from age_gender.scoring import litert
from age_gender.script import InputError

VALIDATION = 0.2  # share of the faces that is held out first
ABSENT = {  # what it means that a default input is not there
    "children": "training without children (prepare.py writes them)",
    "views": "training without other crops (embed.py --aligned --views makes them)",
}
NONE = Path("none")
SETTINGS = ("epochs", "batch_size", "learning_rate", "seed")  # what --resume must find again


def main(argv: list[str] | None = None) -> None:
    args = parse_arguments(argv)
    started = time.monotonic()
    if not args.train.is_file():
        raise InputError(f"{args.train}: no such file of records; make it with: python prepare.py")
    beside = args.train.with_name(model_files.CHILDREN_RECORDS.name)  # of the same table
    if args.children == model_files.CHILDREN_RECORDS:
        args.children = beside
    inputs = {"train": args.train, "children": given(args.children, beside),
              "views": given(args.views, model_files.VIEWS)}  # fmt: skip
    for folder in (args.models, args.logs):
        outputs.make_folder(folder)
    settings = {name: path and outputs.sha256(path) for name, path in inputs.items()}
    settings |= {key: getattr(args, key) for key in SETTINGS}
    script.import_tensorflow()
    import keras
    import tensorflow as tf

    import network_conv

    tf.config.experimental.enable_op_determinism()  # the same seed gives the same figures
    keras.utils.clear_session()  # so that layers have the same names in every training
    faces, grown = read_faces(args.train, inputs["children"])
    for path, what in ((args.children, "children"), (args.views, "views")):
        if inputs[what] is None and path != NONE:
            script.say(f"{script.display_path(path)}: not there: {ABSENT[what]}")
    work, anew = args.models / ".training", "train anew without --resume"
    if args.resume and not (work / checkpoints.SETTINGS).exists():
        script.say("nothing to resume: training from the start")
    if changed := checkpoints.open_folder(work, settings, args.resume, anew):
        had = f"the interrupted training had another {', '.join(changed)}"
        raise InputError(f"{work}: {had}; give the same, or {anew}")
    unit = kinds.unit(faces.features)
    # However many threads the environment grants: another number of them rounds otherwise.
    with threadpoolctl.threadpool_limits(2, user_api="blas"):
        kind = measure_kind(faces, unit, args.train)
        held = hold_out(faces.file_name, grown, args)
        maps = crops.learn(inputs["views"], kind, faces.file_name, held)
        if maps:  # the kind is that of all crops
            mapped = crops.draw(unit, maps, np.random.default_rng(args.seed), share=1)
            kind = kinds.measure(np.concatenate([unit, mapped]))
    front = network_conv.build_front(kind)
    principal = front.predict(unit, batch_size=4096, verbose=0)
    maps = maps and maps.moved(front.get_layer("principal_axes").get_weights()[0], kind.mean)
    everything = Faces(principal, faces.age, faces.gender, grown)
    held_out, rest = everything.at(held), everything.at(~held)

    # Both trainings make the same steps, of fewer or more faces: one compiled step serves both.
    fit_started = time.monotonic()
    steps = min(-(-len(unit) // args.batch_size), len(rest.age))
    heads = compiled_heads(unit.shape[1], steps, args)
    untrained = checkpoints.state(heads)
    fit(heads, untrained, rest, maps, steps, args, work / "validation.npz", held_out)
    validation, calibration = judge(heads, held_out)
    fit(heads, untrained, everything, maps, steps, args, work / "final.npz")
    fit_seconds = round(time.monotonic() - fit_started, 1)

    trained, heads = heads, network_conv.build_heads(unit.shape[1])
    heads.set_weights(trained.get_weights())  # without the losses, which Keras would want to load
    scorer = network_conv.build_scorer(front, heads, calibration, kind)
    description = {
        "settings": settings,
        "faces": int(grown.sum()),
        "children": int((~grown).sum()),
        "crops": len(maps.matrices) if maps else 0,
        "epochs": args.epochs,
        "embeddings": {"dimensions": unit.shape[1], "subspace": kind.count,
                       "effective_rank": round(kind.effective_rank, 1)},
        "calibration": calibration._asdict(),
        "validation": validation,
        "fit": {"seconds": fit_seconds, "steps": 2 * steps * args.epochs},
        "versions": {"python": platform.python_version()}
        | {module.__name__: module.__version__ for module in (tf, keras, np)},
    }  # fmt: skip
    exported = {model_files.LITERT_MODEL: network_conv.to_litert(scorer)}
    if args.float16:
        exported[model_files.FLOAT16_MODEL] = network_conv.to_litert(scorer, float16=True)
        description["float16"] = cost_of_float16(*exported.values(), faces)
    description["seconds"] = round(time.monotonic() - started, 1)
    network = network_conv.build_network(front, heads)
    model_files.write_model(args.models, network, exported, description)
    shutil.rmtree(work)
    script.say(f"model: {script.display_path(args.models)} ({time.monotonic() - started:.0f} s)")


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = script.ArgumentParser(__doc__)
    add, whole_number = parser.add_argument, script.whole_number
    add("--train", type=Path, default=model_files.TRAIN_RECORDS, metavar="FILE",
        help="records that prepare.py wrote")  # fmt: skip
    add("--children", type=Path, default=model_files.CHILDREN_RECORDS, metavar="FILE",
        help="records of the faces under --min-age, as a rule beside --train, or none")  # fmt: skip
    add("--views", type=Path, default=model_files.VIEWS, metavar="NPZ",
        help="faces through several crops, of embed.py --views, or none")  # fmt: skip
    add("--models", type=Path, default=model_files.MODELS, metavar="DIR",
        help="folder for the model")  # fmt: skip
    add("--epochs", type=whole_number(1), default=24, metavar="N", help="passes over the records")
    add("--batch-size", type=whole_number(1), default=512, metavar="N",
        help="faces a step, at most")  # fmt: skip
    add("--learning-rate", type=script.positive, default=2e-2, metavar="X",
        help="AdamW's highest learning rate; it rises to it and falls as a cosine")  # fmt: skip
    add("--seed", type=whole_number(0), default=0, metavar="N",
        help="seed of the weights, the shuffles, the crops and what is held out")  # fmt: skip
    add("--resume", action="store_true", help="go on with an interrupted training")
    add("--float16", action="store_true",
        help="write age_gender_float16.tflite too, half the size, and measure what it "
        "costs")  # fmt: skip
    add("--logs", type=Path, default=model_files.LOGS, metavar="DIR",
        help="folder for the curves, as CSV and for TensorBoard")  # fmt: skip
    return parser.parse_args(argv)


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


def given(path: Path, default: Path) -> Path | None:
    """The path of an input that may be left out: none where it is `none`, or the default and not
    there. Raises InputError for another path that is not there.
    """
    if path == NONE:
        return None
    if path.is_file():
        return path
    if path != default:
        raise InputError(f"{path}: no such file; give another, or none to train without")
    return None


def read_faces(train: Path, children: Path | None):
    """The records of both files, and which of them are no children (n,)."""
    from age_gender import records

    faces = records.read(train)
    count = len(faces.age)
    if children:
        young = records.read(children)
        if young.features.shape[1] != faces.features.shape[1]:
            widths = (
                f"{young.features.shape[1]} numbers, and of {faces.features.shape[1]} in {train}"
            )
            remedy = "prepare both from one table, or give --children none"
            raise InputError(f"{children}: embeddings of {widths}; {remedy}")
        faces = records.Records(
            *(np.concatenate(pair) for pair in zip(faces[:3], young[:3], strict=True)),
            faces.file_name + young.file_name,
        )
    return faces, np.arange(len(faces.age)) < count


def measure_kind(faces, unit: np.ndarray, path: Path) -> kinds.Kind:
    """The kind of the faces of `path`, and of the children; refuses a mixture."""
    kind = kinds.measure(unit)
    script.say(f"{len(unit)} faces; embeddings of {kinds.describe(faces.features, kind)}")
    kinds.refuse_mixture(unit, kind, str(path), lambda place: faces.file_name[place])
    return kind


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


def compiled_heads(width: int, steps: int, args: argparse.Namespace):
    """The network to train, with its losses and its optimizer; `steps` are those of an epoch."""
    import keras

    import network_conv

    keras.utils.set_random_seed(args.seed)
    heads = network_conv.build_heads(width)
    warm_up = max(1, steps * args.epochs // 20)
    schedule = keras.optimizers.schedules.CosineDecay(
        args.learning_rate / 100,
        max(1, steps * args.epochs - warm_up),
        warmup_target=args.learning_rate,
        warmup_steps=warm_up,
    )
    heads.compile(
        keras.optimizers.AdamW(schedule, weight_decay=1e-4),
        loss={"age": network_conv.age_loss, "gender": "sparse_categorical_crossentropy"},
        weighted_metrics={"age": [network_conv.age_error], "gender": ["accuracy"]},
        # Steps between two looks of Python; they must divide an epoch.
        steps_per_execution=max(n for n in range(1, 14) if steps % n == 0),
        jit_compile=False,  # XLA's compilation costs more than it saves here
    )
    heads.optimizer.build(heads.trainable_variables)
    return heads


def fit(
    heads, untrained: list, faces: Faces, maps: crops.Maps | None, steps: int,
    args: argparse.Namespace, state: Path, held_out: Faces | None = None,
) -> None:  # fmt: skip
    """Train the compiled heads on faces, from `untrained` or the `state` it saves every epoch.

    It does not stop early: of 8 epochs without crops the last was the best, or within 0.003 years
    of it (eight trainings); with crops the age error of held-out faces falls to the end.
    """
    import keras

    checkpoints.restore(state, heads, untrained)
    done = int(heads.optimizer.iterations) // steps
    if done == args.epochs:
        return
    callbacks = [
        keras.callbacks.CSVLogger(args.logs / f"{state.stem}.csv", append=done > 0),
        keras.callbacks.LambdaCallback(on_epoch_end=lambda *_: checkpoints.save(state, heads)),
    ]
    if importlib.util.find_spec("tensorboard"):
        callbacks.insert(0, keras.callbacks.TensorBoard(args.logs / state.stem, write_graph=False))
    script.say(f"{state.stem}: {len(faces.age)} faces")
    with contextlib.redirect_stdout(sys.stderr):  # Keras's progress is no data
        heads.fit(
            batches(faces, maps, range(done, args.epochs), steps, args.seed),
            shuffle=False,  # batches() does
            steps_per_epoch=steps,
            initial_epoch=done,
            epochs=args.epochs,
            validation_data=held_out and held_out.for_keras(),
            validation_batch_size=1024,
            callbacks=callbacks,
            verbose=1 if sys.stderr.isatty() else 2,
        )


def batches(
    faces: Faces, maps: crops.Maps | None, epochs: range, steps: int, seed: int
) -> Iterator[tuple]:
    """What Keras takes: `steps` parts of each epoch's faces, as equal in size as can be.

    What is random in an epoch, the order and the crops, follows from the seed and its number.
    """
    for epoch in epochs:
        random = np.random.default_rng([seed, epoch])
        drawn = faces.at(random.permutation(len(faces.age)))
        if maps:
            drawn = drawn._replace(principal=crops.draw(drawn.principal, maps, random))
        ends = np.arange(steps + 1) * len(drawn.age) // steps
        for start, end in itertools.pairwise(ends):
            yield drawn.at(slice(start, end)).for_keras()


def judge(heads, faces: Faces):
    """Figures of held-out faces, and the Calibration that they give."""
    import network_conv

    softmax = heads.predict(faces.principal, batch_size=1024, verbose=0)
    error = np.abs(softmax["age"] @ np.arange(softmax["age"].shape[1]) - faces.age)
    right = softmax["gender"].argmax(axis=1) == faces.gender
    grown, young = faces.grown, ~faces.grown
    mae, accuracy = error[grown].mean(), right[grown].mean()
    script.say(f"held out: age MAE {mae:.2f} years, gender accuracy {accuracy:.2%}")
    figures = {"faces": int(grown.sum()), "age_mae": round(float(mae), 3),
               "gender_accuracy": round(float(accuracy), 4)}  # fmt: skip
    if young.any():
        script.say(f"held-out children: age MAE {error[young].mean():.2f} years")
        figures |= {"children": int(young.sum()),
                    "children_age_mae": round(float(error[young].mean()), 3)}  # fmt: skip
    return figures, network_conv.calibrate(softmax, faces.age, faces.gender, grown)


def cost_of_float16(full: bytes, half: bytes, faces) -> dict:
    """What the model with float16 weights costs against the full one, on the training faces."""
    exact, found = [litert.Model(m, "model").outputs(faces.features) for m in (full, half)]
    mae, exact_mae = [np.abs(scores["age"] - faces.age).mean() for scores in (found, exact)]
    flips = (found["female_probability"] >= 0.5) != (exact["female_probability"] >= 0.5)
    costs = {
        "bytes": len(half),
        "largest_age_difference": round(float(np.abs(found["age"] - exact["age"]).max()), 4),
        "age_mae_difference_on_training_faces": round(float(mae - exact_mae), 5),
        "genders_changed": int(flips.sum()),
        "faces": len(flips),
    }
    script.say(
        f"float16: {len(half):,} bytes against {len(full):,}; ages differ by at most "
        f"{costs['largest_age_difference']} years, {flips.sum()} of {len(flips)} genders change"
    )
    return costs


if __name__ == "__main__":
    script.run(main)
