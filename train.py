"""Train the network on records of faces; write the model that test.py and run.py load.

A fifth of the training records is first held out: a network trained on the others gives the
validation figures, the calibration and the number of epochs. The network that is written is
then trained on all of them. Writes age_gender.keras, .tflite and .json.

examples:
  python train.py
  python train.py --epochs 5 --models /tmp/quick
  python train.py --resume
  tensorboard --logdir logs
"""

import argparse
import contextlib
import json
import platform
import shutil
import sys
import time
from pathlib import Path
from typing import NamedTuple

from age_gender import script

# isort: split
import numpy as np
import threadpoolctl

from age_gender import kinds, model_files, outputs
from age_gender.report.figures import NOMINAL
from age_gender.scoring import litert
from age_gender.script import InputError

VALIDATION = 0.2  # share of the training records that is held out first
PATIENCE = 4  # epochs without a better age error of the held-out faces before it stops
# Share of held-out ages that the interval is made to hold: the network that is kept is trained on
# more faces than the one that is calibrated, and its intervals held 0.5 % more than they were made
# to, on average over eight splits of the training records.
HELD_OUT_COVERAGE = NOMINAL - 0.005


def main(argv: list[str] | None = None) -> None:
    args = parse_arguments(argv)
    started = time.monotonic()
    if not args.train.is_file():
        raise InputError(f"{args.train}: no such file of records; make it with: python prepare.py")
    models = outputs.make_folder(args.models)
    work = models / ".training"
    settings = {
        "train": outputs.sha256(args.train),
        "epochs": args.epochs,
        "batch_size": args.batch_size,
        "learning_rate": args.learning_rate,
        "seed": args.seed,
    }
    script.import_tensorflow()
    import keras
    import tensorflow as tf

    import network_conv
    from age_gender import records

    tf.config.experimental.enable_op_determinism()  # the same seed gives the same figures
    faces = records.read(args.train)
    open_work(work, settings, args.resume)
    unit = kinds.unit(faces.features)
    # However many threads the environment grants: another number of them rounds otherwise.
    with threadpoolctl.threadpool_limits(2, user_api="blas"):
        kind = kinds.measure(unit)
    script.say(f"{len(unit)} faces; embeddings of {kinds.describe(faces.features, kind)}")
    kinds.refuse_mixture(unit, kind, str(args.train), lambda place: f"record {place + 1}")
    order = np.random.default_rng(args.seed).permutation(len(unit))
    held = max(1, int(VALIDATION * len(order)))
    if held == len(order):
        raise InputError(f"{args.train}: {held} face is too few to train on; prepare more")
    keras.utils.clear_session()  # so that layers have the same names in every training
    front = network_conv.build_front(kind)
    everything = Faces(front.predict(unit, batch_size=4096, verbose=0), faces.age, faces.gender)
    held_out, rest = everything.at(np.sort(order[:held])), everything.at(np.sort(order[held:]))

    # Both trainings make the same steps, of fewer or more faces: one compiled step serves both.
    fit_started = time.monotonic()
    steps = min(-(-len(order) // args.batch_size), len(rest.age))
    heads = compiled_heads(steps, args)
    untrained = [variable.numpy() for variable in variables(heads)]
    epochs = fit("validation", heads, rest, held_out, args.epochs, steps, args, work)
    softmax = heads.predict(held_out.principal, batch_size=1024, verbose=0)
    calibration = calibrate(softmax, held_out.age, held_out.gender)
    figures = validation_figures(softmax, held_out.age, held_out.gender)
    script.say(
        f"held out: age MAE {figures['age_mae']:.2f} years, "
        f"gender accuracy {figures['gender_accuracy']:.2%}"
    )
    for variable, value in zip(variables(heads), untrained, strict=True):
        variable.assign(value)
    fit("final", heads, everything, None, epochs, steps, args, work)
    fit_seconds = round(time.monotonic() - fit_started, 1)

    trained, heads = heads, network_conv.build_heads()
    heads.set_weights(trained.get_weights())  # without the losses, which Keras would want to load
    network = network_conv.build_network(front, heads)
    scorer = network_conv.build_scorer(front, heads, calibration, kind)
    description = {
        "settings": settings,
        "faces": len(unit),
        "epochs": epochs,
        "embeddings": {
            "dimensions": unit.shape[1],
            "effective_rank": round(kind.effective_rank, 1),
            "subspace": kind.count,
        },
        "calibration": calibration._asdict(),
        "validation": {"faces": held, **figures},
        "fit": {"seconds": fit_seconds, "steps": steps * (args.epochs + epochs)},
        "versions": versions(),
    }
    exported = {model_files.LITERT_MODEL: network_conv.to_litert(scorer)}
    if args.float16:
        exported[model_files.FLOAT16_MODEL] = network_conv.to_litert(scorer, float16=True)
        description["float16"] = cost_of_float16(*exported.values(), faces)
    description["seconds"] = round(time.monotonic() - started, 1)
    write_model(models, network, exported, description)
    shutil.rmtree(work)
    script.say(f"model: {script.display_path(models)} ({time.monotonic() - started:.0f} s)")


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = script.ArgumentParser(__doc__)
    parser.add_argument(
        "--train", type=Path, default=model_files.TRAIN_RECORDS, metavar="FILE",
        help="records that prepare.py wrote",
    )  # fmt: skip
    parser.add_argument(
        "--models",
        type=Path,
        default=model_files.MODELS,
        metavar="DIR",
        help="folder for the model",
    )
    parser.add_argument(
        "--epochs", type=script.whole_number(1), default=8, metavar="N",
        help="passes over the records, at most",
    )  # fmt: skip
    parser.add_argument(
        "--batch-size",
        type=script.whole_number(1),
        default=512,
        metavar="N",
        help="faces a step, at most",
    )
    parser.add_argument(
        "--learning-rate", type=script.positive, default=1e-2, metavar="X",
        help="AdamW's highest learning rate; it rises to it and falls as a cosine",
    )  # fmt: skip
    parser.add_argument(
        "--seed", type=script.whole_number(0), default=0, metavar="N",
        help="seed of the weights, of the shuffles and of what is held out",
    )  # fmt: skip
    parser.add_argument("--resume", action="store_true", help="go on with an interrupted training")
    parser.add_argument(
        "--float16", action="store_true",
        help="write age_gender_float16.tflite too, half the size, and measure what it costs",
    )  # fmt: skip
    parser.add_argument(
        "--logs", type=Path, default=model_files.LOGS, metavar="DIR", help="folder for TensorBoard"
    )
    return parser.parse_args(argv)


# ---------------------------------------------------------------------------- resuming


def open_work(work: Path, settings: dict, resume: bool) -> None:
    """The folder that keeps what is done, for --resume; emptied without it."""
    note = work / "settings.json"
    if resume and note.exists():
        try:
            before = dict(json.loads(note.read_text()))
        except (ValueError, TypeError):
            raise InputError(f"{note}: cannot be read; train anew without --resume") from None
        changed = [key for key in settings if settings[key] != before.get(key)]
        if changed:
            raise InputError(
                f"{work}: the interrupted training had another {', '.join(changed)}; "
                "give the same, or train anew without --resume"
            )
        return
    if resume:
        script.say("nothing to resume: training from the start")
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir()
    with outputs.whole_file(note, "w") as stream:
        json.dump(settings, stream)


# ---------------------------------------------------------------------------- training


class Faces(NamedTuple):
    """Principal components float32 (n, 512), ages and genders int64 (n,)."""

    principal: np.ndarray
    age: np.ndarray
    gender: np.ndarray

    def at(self, places: np.ndarray) -> "Faces":
        return Faces(*(values[places] for values in self))

    def labels(self) -> dict[str, np.ndarray]:
        return {"age": self.age, "gender": self.gender}


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


def variables(heads) -> list:
    """All that training changes: weights, states of random numbers, the optimizer's variables."""
    return heads.variables + heads.optimizer.variables


def fit(
    title: str, heads, faces: Faces, held_out: Faces | None, epochs: int, steps: int,
    args: argparse.Namespace, work: Path,
) -> int:  # fmt: skip
    """Train the compiled heads on faces; returns for how many epochs that is worth it.

    With `held_out` faces it keeps the best weights and stops where they get no better. After
    every epoch the state lies in `work`; what is random in an epoch follows from the seed and
    its number.
    """
    import keras

    path = work / f"{title}.npz"
    state = load_state(path, heads)
    stopping = keras.callbacks.EarlyStopping(
        "val_age_age_error", mode="min", patience=PATIENCE, restore_best_weights=True
    )

    def restore_stopping(_=None) -> None:
        if held_out is not None and state["epoch"]:
            stopping.best, stopping.wait = float(state["best"]), int(state["wait"])
            stopping.best_epoch = int(state["best_epoch"])
            stopping.best_weights = [state[f"best{i}"] for i in range(len(heads.weights))]

    def seed_epoch(epoch: int, _=None) -> None:
        for number, layer in enumerate(heads.layers):
            if isinstance(layer, keras.layers.Dropout):
                layer.seed_generator.state.assign([args.seed, epoch * 1000 + number])

    def save_epoch(epoch: int, _=None) -> None:
        save_state(path, heads, epoch + 1, stopping if held_out is not None else None)

    callbacks = [
        keras.callbacks.LambdaCallback(
            on_train_begin=restore_stopping, on_epoch_begin=seed_epoch, on_epoch_end=save_epoch
        ),
        log_writer(args.logs / title),
    ]
    if held_out is not None:
        callbacks.insert(0, stopping)
    if state["epoch"] < epochs and not state["finished"]:
        script.say(f"{title}: {len(faces.age)} faces")
        with contextlib.redirect_stdout(sys.stderr):  # Keras's progress is no data
            heads.fit(
                batches(faces, steps, args.seed, int(state["epoch"]), epochs),
                epochs=epochs,
                initial_epoch=int(state["epoch"]),
                steps_per_epoch=steps,
                validation_data=held_out and (held_out.principal, held_out.labels()),
                validation_batch_size=1024,
                shuffle=False,  # the dataset is
                callbacks=callbacks,
                verbose=1 if sys.stderr.isatty() else 2,
            )
    elif held_out is not None:
        restore_stopping()
        heads.set_weights(stopping.best_weights)
    stopped = heads.stop_training or state["finished"]
    return stopping.best_epoch + 1 if stopped else epochs


def load_state(path: Path, heads) -> dict:
    """Give the heads the state in `path`, if there is one; returns the rest of it."""
    if not path.exists():
        return {"epoch": 0, "finished": False}
    try:
        with np.load(path, allow_pickle=False) as arrays:
            state = dict(arrays)
        for number, variable in enumerate(variables(heads)):
            variable.assign(state[f"variable{number}"])
        if not {"epoch", "finished"} <= state.keys():
            raise KeyError
        return state
    except Exception:  # NumPy, zipfile and Keras raise many kinds on broken or foreign files
        raise InputError(
            f"{path}: not a state of this training; train anew without --resume"
        ) from None


def save_state(path: Path, heads, epoch: int, stopping) -> None:
    """Write what is needed to go on after `epoch` epochs; `stopping` may be None."""
    state = {f"variable{i}": variable.numpy() for i, variable in enumerate(variables(heads))}
    if stopping is not None:
        state |= {f"best{i}": weight for i, weight in enumerate(stopping.best_weights)}
        state |= {"best": stopping.best, "wait": stopping.wait, "best_epoch": stopping.best_epoch}
    with outputs.whole_file(path) as stream:
        np.savez(stream, epoch=epoch, finished=heads.stop_training, **state)


def batches(faces: Faces, steps: int, seed: int, first: int, last: int):
    """A dataset of (principal components, labels) of faces, shuffled anew every epoch.

    It holds the epochs from `first` to below `last`, each of `steps` batches of equal size.
    """
    import tensorflow as tf

    principal = tf.constant(faces.principal)
    labels = {key: tf.constant(values) for key, values in faces.labels().items()}
    ends = np.arange(1, steps + 1) * len(faces.age) // steps

    def epoch(number):
        order = tf.random.experimental.stateless_shuffle(
            tf.range(len(faces.age)), seed=[seed % 2**31, tf.cast(number, tf.int32)]
        )
        parts = tf.RaggedTensor.from_row_limits(order, ends, validate=False)
        return tf.data.Dataset.from_tensor_slices(parts)

    def faces_at(order):
        return tf.gather(principal, order), {k: tf.gather(v, order) for k, v in labels.items()}

    return tf.data.Dataset.range(first, last).flat_map(epoch).map(faces_at).prefetch(4)


def log_writer(folder: Path):
    """A callback that logs every epoch's figures for TensorBoard.

    Keras's own needs the tensorboard package, which TensorFlow no longer brings.
    """
    import keras
    import tensorflow as tf

    writer = tf.summary.create_file_writer(str(folder))
    plugin = tf.compat.v1.SummaryMetadata.PluginData(plugin_name="scalars")
    metadata = tf.compat.v1.SummaryMetadata(plugin_data=plugin)

    def log(epoch: int, figures: dict) -> None:
        with writer.as_default(step=epoch):
            for name, value in figures.items():
                tf.summary.write(name, tf.constant(value, tf.float32), metadata=metadata)

    return keras.callbacks.LambdaCallback(on_epoch_end=log, on_train_end=lambda _: writer.close())


# ------------------------------------------------------------------------- calibration


def calibrate(softmax: dict[str, np.ndarray], age: np.ndarray, gender: np.ndarray):
    """The Calibration by the softmaxes "age" (n, 117) and "gender" (n, 2) of held-out faces.

    The interval is split conformal: of the levels at which the tails of the age softmax can
    be cut off, the largest that leaves HELD_OUT_COVERAGE of the ages inside (Romano et al.,
    "Conformalized Quantile Regression", 2019, with the softmax's quantiles). The temperature
    has the least gender loss.
    """
    import network_conv

    cumulative = np.cumsum(softmax["age"], axis=1)
    rows = np.arange(len(age))
    # The level at which a face's age is just inside: P(age <= label) below, P(age >= label)
    # above, whichever is smaller.
    level = np.minimum(cumulative[rows, age], 1 - (cumulative - softmax["age"])[rows, age])
    level = level / np.asarray(network_conv.tail_factor(network_conv.expected_age(softmax["age"])))
    outside = int((1 - HELD_OUT_COVERAGE) * (len(age) + 1))
    tail = float(np.sort(level)[max(outside - 1, 0)])

    logit = np.diff(np.log(softmax["gender"] + 1e-9), axis=1)[:, 0]
    right = np.where(gender == 1, logit, -logit)
    temperatures = np.linspace(0.5, 3, 251)
    losses = [np.logaddexp(0, -right / temperature).mean() for temperature in temperatures]
    return network_conv.Calibration(tail, float(temperatures[np.argmin(losses)]))


def validation_figures(softmax, age: np.ndarray, gender: np.ndarray) -> dict:
    """Figures of the held-out faces, as train.py prints and keeps them."""
    import network_conv

    expected = np.asarray(network_conv.expected_age(softmax["age"]))
    return {
        "age_mae": round(float(np.abs(expected - age).mean()), 3),
        "gender_accuracy": round(float((softmax["gender"].argmax(axis=1) == gender).mean()), 4),
    }


# -------------------------------------------------------------------------- the model


def write_model(models: Path, network, exported: dict[str, bytes], description: dict) -> None:
    """Write the files, each whole; the description, with the others' hashes, last."""
    names = [model_files.KERAS_MODEL, *exported]
    hashes = {}
    with contextlib.ExitStack() as stack:  # ends in the reverse order
        card = stack.enter_context(outputs.whole_path(models / model_files.DESCRIPTION))
        for name in reversed(names):
            path = stack.enter_context(outputs.whole_path(models / name))
            if name in exported:
                path.write_bytes(exported[name])
            else:
                network.save(path)
            hashes[name] = outputs.sha256(path)
        text = json.dumps(
            {"format": model_files.MODEL_FORMAT, "files": hashes} | description, indent=2
        )
        card.write_text(text + "\n", encoding="utf-8")
    if model_files.FLOAT16_MODEL not in exported:  # one of another training
        (models / model_files.FLOAT16_MODEL).unlink(missing_ok=True)


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


def versions() -> dict[str, str]:
    import keras
    import tensorflow as tf

    return {
        "python": platform.python_version(),
        "tensorflow": tf.__version__,
        "keras": keras.__version__,
        "numpy": np.__version__,
    }


if __name__ == "__main__":
    script.run(main)
