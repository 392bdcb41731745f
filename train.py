"""Train the network on records of faces; write the model that test.py and run.py load.

A fifth of the training records is first held out: a network trained on the others gives the
validation figures and the calibration. The network that is written is then trained on all of
them. Writes age_gender.keras, .tflite and .json.

examples:
  python train.py
  python train.py --epochs 5 --models /tmp/quick
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

from age_gender import script

# isort: split
import numpy as np
import threadpoolctl

from age_gender import checkpoints, kinds, model_files, outputs
from age_gender.scoring import litert
from age_gender.script import InputError

VALIDATION = 0.2  # share of the training records that is held out first


def main(argv: list[str] | None = None) -> None:
    args = parse_arguments(argv)
    started = time.monotonic()
    if not args.train.is_file():
        raise InputError(f"{args.train}: no such file of records; make it with: python prepare.py")
    for folder in (args.models, args.logs):
        outputs.make_folder(folder)
    settings = {"train": outputs.sha256(args.train)} | {
        key: getattr(args, key) for key in ("epochs", "batch_size", "learning_rate", "seed")
    }
    script.import_tensorflow()
    import keras
    import tensorflow as tf

    import network_conv
    from age_gender import records

    tf.config.experimental.enable_op_determinism()  # the same seed gives the same figures
    keras.utils.clear_session()  # so that layers have the same names in every training
    faces = records.read(args.train)
    work = args.models / ".training"
    checkpoints.open_folder(work, settings, args.resume)
    unit = kinds.unit(faces.features)
    kind = measure_kind(faces.features, unit, args.train)
    front = network_conv.build_front(kind)
    principal = front.predict(unit, batch_size=4096, verbose=0)
    everything = (principal, {"age": faces.age, "gender": faces.gender})
    held_out, rest = hold_out(everything, args)

    # Both trainings make the same steps, of fewer or more faces: one compiled step serves both.
    fit_started = time.monotonic()
    steps = min(-(-len(unit) // args.batch_size), len(rest[0]))
    heads = compiled_heads(steps, args)
    untrained = checkpoints.state(heads)
    fit(heads, untrained, rest, steps, args, work / "validation.npz", held_out)
    validation, calibration = judge(heads, *held_out)
    fit(heads, untrained, everything, steps, args, work / "final.npz")
    fit_seconds = round(time.monotonic() - fit_started, 1)

    trained, heads = heads, network_conv.build_heads()
    heads.set_weights(trained.get_weights())  # without the losses, which Keras would want to load
    scorer = network_conv.build_scorer(front, heads, calibration, kind)
    description = {
        "settings": settings,
        "faces": len(unit),
        "epochs": args.epochs,
        "embeddings": {
            "dimensions": unit.shape[1],
            "effective_rank": round(kind.effective_rank, 1),
            "subspace": kind.count,
        },
        "calibration": calibration._asdict(),
        "validation": validation,
        "fit": {"seconds": fit_seconds, "steps": 2 * steps * args.epochs},
        "versions": {"python": platform.python_version()}
        | {module.__name__: module.__version__ for module in (tf, keras, np)},
    }
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
    add("--models", type=Path, default=model_files.MODELS, metavar="DIR",
        help="folder for the model")  # fmt: skip
    add("--epochs", type=whole_number(1), default=8, metavar="N", help="passes over the records")
    add("--batch-size", type=whole_number(1), default=512, metavar="N",
        help="faces a step, at most")  # fmt: skip
    add("--learning-rate", type=script.positive, default=1e-2, metavar="X",
        help="AdamW's highest learning rate; it rises to it and falls as a cosine")  # fmt: skip
    add("--seed", type=whole_number(0), default=0, metavar="N",
        help="seed of the weights, of the shuffles and of what is held out")  # fmt: skip
    add("--resume", action="store_true", help="go on with an interrupted training")
    add("--float16", action="store_true",
        help="write age_gender_float16.tflite too, half the size, and measure what it "
        "costs")  # fmt: skip
    add("--logs", type=Path, default=model_files.LOGS, metavar="DIR",
        help="folder for the curves, as CSV and for TensorBoard")  # fmt: skip
    return parser.parse_args(argv)


def compiled_heads(steps: int, args: argparse.Namespace):
    """The network to train, with its losses and its optimizer; `steps` are those of an epoch."""
    import keras

    import network_conv

    keras.utils.set_random_seed(args.seed)
    heads = network_conv.build_heads()
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
        metrics={"age": [network_conv.age_error], "gender": ["accuracy"]},
        # Steps between two looks of Python; they must divide an epoch.
        steps_per_execution=max(n for n in range(1, 14) if steps % n == 0),
        jit_compile=False,  # XLA's compilation costs more than it saves here
    )
    heads.optimizer.build(heads.trainable_variables)
    return heads


def measure_kind(features: np.ndarray, unit: np.ndarray, path: Path) -> kinds.Kind:
    """The kind of the embeddings in `path`, at unit length too; refuses a mixture."""
    # However many threads the environment grants: another number of them rounds otherwise.
    with threadpoolctl.threadpool_limits(2, user_api="blas"):
        kind = kinds.measure(unit)
    script.say(f"{len(unit)} faces; embeddings of {kinds.describe(features, kind)}")
    kinds.refuse_mixture(unit, kind, str(path), lambda place: f"record {place + 1}")
    return kind


def hold_out(faces: tuple, args: argparse.Namespace) -> list[tuple]:
    """The faces to validate on, drawn at random, and the others."""
    order = np.random.default_rng(args.seed).permutation(len(faces[0]))
    held = max(1, int(VALIDATION * len(order)))
    if held == len(order):
        raise InputError(f"{args.train}: {held} face is too few to train on; prepare more")
    return [at(np.sort(part), *faces) for part in (order[:held], order[held:])]


def fit(
    heads, untrained: list, faces: tuple, steps: int, args: argparse.Namespace, state: Path,
    held_out: tuple | None = None,
) -> None:  # fmt: skip
    """Train the compiled heads on faces, from `untrained` or the `state` it saves every epoch.

    It does not stop early: the last epoch was the best one of 8, for each of five seeds.
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
    script.say(f"{state.stem}: {len(faces[0])} faces")
    with contextlib.redirect_stdout(sys.stderr):  # Keras's progress is no data
        heads.fit(
            batches(faces, range(done, args.epochs), steps, args.seed),
            shuffle=False,  # draw() does
            steps_per_epoch=steps,
            initial_epoch=done,
            epochs=args.epochs,
            validation_data=held_out,
            validation_batch_size=1024,
            callbacks=callbacks,
            verbose=1 if sys.stderr.isatty() else 2,
        )


def batches(faces: tuple, epochs: range, steps: int, seed: int) -> Iterator[tuple]:
    """What Keras takes: `steps` parts of each epoch's faces, as equal in size as can be."""
    for epoch in epochs:
        drawn = draw(faces, np.random.default_rng([seed, epoch]))
        ends = np.arange(steps + 1) * len(drawn[0]) // steps
        for start, end in itertools.pairwise(ends):
            yield at(slice(start, end), *drawn)


def draw(faces: tuple, random: np.random.Generator) -> tuple:
    """The faces as an epoch sees them; what is random in it follows from its seed and number."""
    return at(random.permutation(len(faces[0])), *faces)


def at(places, inputs: np.ndarray, labels: dict[str, np.ndarray]) -> tuple:
    """Some of the faces: inputs (n, 512), and labels (n,) by name."""
    return inputs[places], {name: values[places] for name, values in labels.items()}


def judge(heads, principal: np.ndarray, labels: dict[str, np.ndarray]):
    """Figures of held-out faces, and the Calibration that they give."""
    import network_conv

    measured = heads.evaluate(principal, labels, batch_size=1024, verbose=0, return_dict=True)
    mae, accuracy = measured["age_age_error"], measured["gender_accuracy"]
    script.say(f"held out: age MAE {mae:.2f} years, gender accuracy {accuracy:.2%}")
    figures = {
        "faces": len(principal),
        "age_mae": round(mae, 3),
        "gender_accuracy": round(accuracy, 4),
    }
    softmax = heads.predict(principal, batch_size=1024, verbose=0)
    return figures, network_conv.calibrate(softmax, **labels)


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
