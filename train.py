"""Train the network on records of faces; write the model that test.py and run.py load.

First trains for --epochs epochs on four fifths of the faces, and measures and calibrates the model
on the others; then trains for 5/8 as many epochs on all faces. In each epoch half of the faces are
augmented by crops learnt from --views. Of children (--children), ages are learnt but not genders.
Writes age_gender.keras, age_gender.tflite and age_gender.json to --models.

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
    sys.path.append(os.path.dirname(__file__))  # python -P leaves it out
    from age_gender.processes import startup

    startup.begin()  # errors and Ctrl-C take one line from here on, during the imports too
# isort: split
import argparse
import contextlib
import functools
import gc
import importlib.util
import math
import platform
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from age_gender import checkpoints, cli, files, metrics, paths, rounding
from age_gender.embedding_space import EmbeddingSpace
from age_gender.errors import InputError
from age_gender.processes import library_output
from age_gender.processes.tensorflow_import import import_tensorflow
from age_gender.trained_models import write_model
from age_gender.training.crop_augmentation import CropMaps, fit_crop_maps
from age_gender.training.data_loading import (
    Faces,
    batches,
    hold_out,
    read_faces,
    scale_and_fit_space,
)

if TYPE_CHECKING:
    from age_gender.training.calibration import Calibration

# Epochs of the last part of the training, on all faces, as a fraction of the first part's. Two
# trainings of 24 epochs were 0.02 years better (three seeds), in twice the time.
FINAL_EPOCHS_FRACTION = 5 / 8
NONE = Path("none")
WITHOUT_INPUT = {
    "children": "training without children (prepare.py writes them)",
    "views": "training without crop augmentation (to make views: embed.py --aligned --views)",
}


class Recipe(NamedTuple):
    """Hold the settings of a training, which --resume must find unchanged."""

    epochs: int
    batch_size: int
    learning_rate: float
    whitening: float
    crop_share: float
    seed: int


class Training(NamedTuple):
    """Hold what `fit` needs in both parts of a training."""

    model: Any  # the compiled Keras model
    crop_maps: CropMaps | None
    steps_per_epoch: int
    recipe: Recipe
    checkpoint_folder: Path
    logs: Path


def main(argv: list[str] | None = None) -> None:
    args = parse_arguments(argv)
    recipe = Recipe(*(getattr(args, name) for name in Recipe._fields))
    inputs = find_inputs(args.train, args.children, args.views)
    import_reproducible_tensorflow(recipe.seed)
    import threadpoolctl

    # One BLAS thread: eigenvectors took three times the processor time on two, and rounding depends
    # on the number of threads, so that one seed would give different results.
    with threadpoolctl.threadpool_limits(1, user_api="blas"):
        train(inputs, recipe, args.models, args.logs, args.resume)


def train(
    inputs: dict[str, Path | None], recipe: Recipe, folder: Path, logs: Path, resume: bool
) -> None:
    """Train on the inputs and write the model to the folder, or resume an interrupted training."""
    # Here, so that --help and bad arguments need no TensorFlow
    import network_conv
    from age_gender.training.calibration import calibrate

    # Read the records, and prepare the folder of checkpoints
    started = time.monotonic()
    records, is_adult = read_faces(inputs["train"], inputs["children"])
    settings = {name: path and files.sha256(path) for name, path in inputs.items()}
    settings |= recipe._asdict()
    for output in (folder, logs):
        files.make_folder(output)
    checkpoint_folder = folder / ".training"
    checkpoints.begin_or_resume(checkpoint_folder, settings, resume, "train anew without --resume")

    # Fit the embedding space, the preprocessing, and the maps of crops
    is_held_out = hold_out(records.file_names, is_adult, recipe.seed)
    embeddings, views, space = scale_and_fit_space(records, is_held_out, inputs["views"])
    preprocessing = network_conv.build_preprocessing(space, recipe.whitening)
    to_components = functools.partial(network_conv.to_components, preprocessing)
    components, rounded = map(to_components, (embeddings, rounding.round_at_random(embeddings)))
    faces = Faces(components, rounded, records.age, records.gender, is_adult)
    crop_maps = fit_crop_maps(to_components(views)) if views is not None else None

    # Train without the held-out faces, calibrate on them, then train on all. Both parts have the
    # same number of steps per epoch, so that one schedule of the learning rate fits both; the
    # batches of the first part are smaller.
    fit_started = time.monotonic()
    held_out, training_faces = faces.select(is_held_out), faces.select(~is_held_out)
    steps = min(math.ceil(len(faces.age) / recipe.batch_size), len(training_faces.age))
    final_epochs = math.ceil(FINAL_EPOCHS_FRACTION * recipe.epochs)
    network = network_conv.build_network(components.shape[1])
    training_model = network_conv.compile_for_training(
        network, steps, recipe.epochs, final_epochs, recipe.learning_rate
    )
    training = Training(training_model, crop_maps, steps, recipe, checkpoint_folder, logs)
    fit(training, "validation", range(recipe.epochs), training_faces, held_out)
    softmax = network.predict(held_out.components, batch_size=1024, verbose=0)
    held_out_figures = evaluate(softmax, held_out)
    calibration = calibrate(softmax, held_out.age, held_out.gender, held_out.is_adult)

    def estimate_ages(embeddings: np.ndarray) -> np.ndarray:
        softmax = network.predict(to_components(embeddings), batch_size=1024, verbose=0)
        return metrics.compute_expected_age(softmax["age"])

    curve = rounding.measure(embeddings[is_held_out], space, estimate_ages)
    fit(training, "final", range(recipe.epochs, recipe.epochs + final_epochs), faces)
    fit_seconds = round(time.monotonic() - fit_started, 1)

    # Export the model, and write its three files
    scorer = network_conv.build_scorer(preprocessing, network, calibration, space, curve)
    keras_model = network_conv.join_preprocessing(preprocessing, network)
    description = describe_training(
        settings, faces, crop_maps, space, calibration, curve, held_out_figures
    ) | {
        "fit": {"seconds": fit_seconds, "steps": steps * (recipe.epochs + final_epochs)},
        "seconds": round(time.monotonic() - started, 1),
    }
    write_model(folder, keras_model, network_conv.to_litert(scorer), description)
    checkpoints.remove_folder(checkpoint_folder)
    cli.say(f"model: {cli.display_path(folder)} ({time.monotonic() - started:.0f} s)")


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = cli.ArgumentParser(__doc__)
    add, whole_number = parser.add_argument, cli.whole_number
    # fmt: off
    add("--train", type=Path, default=paths.TRAIN_RECORDS, metavar="FILE",
        help="records that prepare.py wrote")
    add("--children", type=Path, default=paths.CHILDREN_RECORDS, metavar="FILE",
        help="records of faces under prepare.py's --min-age, by default beside --train; none to "
        "train without")
    add("--views", type=Path, default=paths.VIEWS, metavar="NPZ",
        help="augmented views written by embed.py --views; none to train without")
    add("--models", type=Path, default=paths.MODELS, metavar="DIR", help="folder for the model")
    add("--epochs", type=whole_number(1), default=18, metavar="N",
        help="epochs without the held-out faces; 5/8 as many follow on all faces")
    add("--batch-size", type=whole_number(1), default=768, metavar="N",
        help="maximum number of faces per step")
    add("--learning-rate", type=cli.positive, default=3e-2, metavar="X",
        help="initial learning rate of AdamW; it falls along a cosine, and again from half of it "
        "in the epochs on all faces")
    add("--whitening", type=cli.fraction, default=0.5, metavar="X",
        help="strength of PCA whitening, 0 (none) to 1 (all principal components have the same "
        "variance)")
    add("--crop-share", type=cli.fraction, default=0.5, metavar="X",
        help="fraction of the faces augmented by a crop in each epoch")
    add("--seed", type=whole_number(0, 2**32 - 1), default=0, metavar="N",
        help="seed of the weights, shuffles, crops and held-out faces")
    add("--resume", action="store_true", help="continue an interrupted training")
    add("--logs", type=Path, default=paths.LOGS, metavar="DIR",
        help="folder for the training curves, as CSV and for TensorBoard")
    # fmt: on
    return parser.parse_args(argv)


def import_reproducible_tensorflow(seed: int) -> None:
    """Import TensorFlow, and make Keras return the same results for the same seed."""
    # One thread per operation: with two, small batches took longer, and a fifth more processor time
    threads = os.environ.get("TF_NUM_INTRAOP_THREADS", "1")
    with library_output.environment(TF_NUM_INTRAOP_THREADS=threads):
        import_tensorflow()
    import keras
    import tensorflow as tf

    tf.config.experimental.enable_op_determinism()
    keras.utils.clear_session()  # so that layers have the same names in every training
    keras.utils.set_random_seed(seed)


def find_inputs(train: Path, children: Path, views: Path) -> dict[str, Path | None]:
    """Return the paths of the inputs; None for `none` and for a default that does not exist.

    The default of `children` is the file beside the records. Raises InputError for another path
    that does not exist.
    """
    beside = train.with_name(paths.CHILDREN_RECORDS.name)
    if children == paths.CHILDREN_RECORDS:
        children = beside
    inputs: dict[str, Path | None] = {"train": train}
    for name, path, default in (("children", children, beside), ("views", views, paths.VIEWS)):
        inputs[name] = path if path != NONE and path.is_file() else None
        if inputs[name] is None and path not in (NONE, default):
            raise InputError(f"{path}: no such file; give another, or none to train without")
        if inputs[name] is None and path != NONE:
            cli.say(f"{cli.display_path(path)}: no such file: {WITHOUT_INPUT[name]}")
    return inputs


def fit(
    training: Training, part: str, epochs: range, faces: Faces, held_out: Faces | None = None
) -> None:
    """Train on faces for the epochs of a part, "validation" or "final"; save each epoch's state.

    Continues from the part's checkpoint if there is one. There is no early stopping: without crops,
    the last of 8 epochs was the best or within 0.003 years of it (eight trainings); with crops the
    age error of held-out faces falls to the end. Raises InputError where the training diverges.
    """
    import keras

    # Restore the state of an interrupted training
    model, steps, recipe = training.model, training.steps_per_epoch, training.recipe
    checkpoint = training.checkpoint_folder / f"{part}.npz"
    if checkpoint.exists():
        checkpoints.restore(checkpoint, model)
    epochs = epochs[int(model.optimizer.iterations) // steps - epochs.start :]
    callbacks = [
        keras.callbacks.TerminateOnNaN(),
        keras.callbacks.CSVLogger(training.logs / f"{part}.csv", append=checkpoint.exists()),
        keras.callbacks.LambdaCallback(on_epoch_end=lambda *_: checkpoints.save(checkpoint, model)),
    ]
    if importlib.util.find_spec("tensorboard"):
        callbacks.insert(0, keras.callbacks.TensorBoard(training.logs / part, write_graph=False))

    # Train for the remaining epochs
    which = "all faces" if held_out is None else "without the held-out faces"
    cli.say(f"training, {which}: {len(faces.age):,} faces")
    if epochs:
        with contextlib.redirect_stdout(sys.stderr):  # Keras's progress bar is not data
            model.fit(
                batches(faces, training.crop_maps, epochs, steps, recipe.seed, recipe.crop_share),
                shuffle=False,  # batches() shuffles
                steps_per_epoch=steps,
                initial_epoch=epochs.start,
                epochs=epochs.stop,
                validation_data=held_out and held_out.for_keras(),
                validation_batch_size=4096,
                callbacks=callbacks,
                verbose=1 if sys.stderr.isatty() else 2,
            )
    if not all(np.isfinite(weights).all() for weights in model.get_weights()):
        raise InputError(
            "the training diverged: its weights are not finite; train again with a lower "
            f"--learning-rate than {recipe.learning_rate:g}"
        )


def evaluate(softmax: dict[str, np.ndarray], faces: Faces) -> dict[str, float]:
    """Print and return the age error and gender accuracy of held-out faces, by their softmaxes."""
    error = metrics.compute_age_error(metrics.compute_expected_age(softmax["age"]), faces.age)
    is_right = metrics.is_gender_right(softmax["gender"][:, 1], faces.gender)
    adult_error, child_error = error[faces.is_adult], error[~faces.is_adult]
    mae, accuracy = float(adult_error.mean()), round(float(is_right[faces.is_adult].mean()), 4)
    cli.say(f"held out: age MAE {mae:.2f} years, gender accuracy {accuracy:.2%}")
    figures = {"faces": len(adult_error), "age_mae": round(mae, 3), "gender_accuracy": accuracy}
    if len(child_error):
        mae = float(child_error.mean())
        cli.say(f"held-out children: age MAE {mae:.2f} years")
        figures |= {"children": len(child_error), "children_age_mae": round(mae, 3)}
    return figures


def describe_training(
    settings: dict, faces: Faces, crop_maps: CropMaps | None, space: EmbeddingSpace,
    calibration: "Calibration", curve: rounding.RoundingCurve, held_out_figures: dict[str, float],
) -> dict:  # fmt: skip
    """Return the description of a training and its model, for age_gender.json."""
    import keras
    import tensorflow

    import network_conv

    modules = (tensorflow, keras, np)
    points = {name: np.float64(values).round(6) for name, values in curve._asdict().items()}
    return {
        "settings": settings,
        "faces": int(faces.is_adult.sum()),
        "children": int((~faces.is_adult).sum()),
        "crops": len(crop_maps.matrices) if crop_maps else 0,
        "epochs": settings["epochs"],
        "embeddings": {
            "dimensions": len(space.mean),
            "components": space.component_count,
            "denoised": network_conv.is_denoised(space),
            "false_rejection_rate": round(space.false_rejection_rate, 5),
            "false_acceptance_rate": round(space.false_acceptance_rate, 5),
        },
        "calibration": calibration._asdict(),
        "rounding": {name: values.tolist() for name, values in points.items()},
        "validation": held_out_figures,
        "versions": {"python": platform.python_version()}
        | {module.__name__: module.__version__ for module in modules},
    }


if __name__ == "__main__":
    gc.disable()  # searching for cyclic garbage took 3 % of the processor time and freed no memory
    cli.run(main)
