"""Write trained models, and find them: their files, their folders in models/, `--model`."""

import contextlib
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

from age_gender import paths
from age_gender.errors import InputError
from age_gender.files import atomic_path, sha256

if TYPE_CHECKING:
    import keras

KERAS_MODEL = "age_gender.keras"
LITERT_MODEL = "age_gender.tflite"
DESCRIPTION = "age_gender.json"
# How to train a model for another network
TRAIN_COMMAND = "python prepare.py --features YOURS && python train.py --models models/NAME"
MODEL_FORMAT = 2  # increased when the outputs of the exported model change


def write_model(
    folder: Path, keras_model: "keras.Model", exported: bytes, description: dict
) -> None:
    """Write the Keras model, the exported one (LiteRT) and the description, each atomically.

    The description, which has the hashes of the others, appears last.
    """
    with contextlib.ExitStack() as stack:  # it leaves the contexts in reverse order
        names = DESCRIPTION, LITERT_MODEL, KERAS_MODEL
        text, litert, keras_file = (
            stack.enter_context(atomic_path(folder / name)) for name in names
        )
        keras_model.save(keras_file)
        litert.write_bytes(exported)
        hashes = {KERAS_MODEL: sha256(keras_file), LITERT_MODEL: sha256(litert)}
        description = {"format": MODEL_FORMAT, "files": hashes} | description
        text.write_text(json.dumps(description, indent=2) + "\n", encoding="utf-8")


def find_model_widths(root: Path) -> dict[Path, int]:
    """Return the width of the embeddings that each model takes, by the model's folder.

    The first is `root` itself, if train.py wrote a model there, then the folders directly in it, by
    name. Raises InputError for a description that cannot be read.
    """
    described = [root / DESCRIPTION, *sorted(root.glob(f"[!.]*/{DESCRIPTION}"))]
    return {path.parent: _read_description(path)[1] for path in described if path.exists()}


def find_model_file(model: str | os.PathLike[str] | None, file_name: str) -> Path:
    """Return the path of a trained model's file, KERAS_MODEL or LITERT_MODEL.

    `model` is a folder, one of its files, or None for models/ if train.py has written there, else
    models/facenet/. Raises InputError for a missing file, and for one that the age_gender.json
    beside it does not describe.
    """
    if model is None:
        trained = (paths.MODELS / DESCRIPTION).exists()
        model = (paths.MODELS if trained else paths.FACENET) / file_name
    elif not Path(model).exists():
        raise InputError(f"{model}: no such model; give a folder that train.py wrote")
    path = Path(model)
    if path.is_dir():
        path /= file_name
    elif path.suffix not in (".keras", ".tflite", ".json"):
        raise InputError(f"{path}: not a model; give a folder that train.py wrote")
    elif path.suffix != Path(file_name).suffix:
        path = path.with_name(file_name)
    if not path.exists():
        raise InputError(f"{path}: no such model file; train.py writes it (python train.py)")
    if path.with_name(DESCRIPTION).exists():
        _check_hashes(path.with_name(DESCRIPTION), path)
    return path


def _check_hashes(description: Path, path: Path) -> None:
    """Raise InputError where the files' hashes are not those in the description."""
    hashes, _ = _read_description(description)
    for name, expected in hashes.items():
        file = description.with_name(name)
        if file.exists() and sha256(file) != expected:
            raise InputError(
                f"{file}: not the file that {description.name} describes: it belongs to another "
                "model, or train.py was interrupted while replacing the files; write them again "
                "with: python train.py --resume"
            )
    if path.name not in hashes and sha256(path) not in hashes.values():
        raise InputError(
            f"{path}: not a file of the model that {description.name} describes (other "
            "SHA-256); train again or restore it"
        )


def _read_description(path: Path) -> tuple[dict[str, str], int]:
    """Return the hashes of a model's files by their names, and the width of its embeddings."""
    hashes, width = {}, 0
    try:
        description = json.loads(path.read_text(encoding="utf-8"))
        version = description["format"]
        if version == MODEL_FORMAT:  # other formats are refused below
            hashes = dict(description["files"])
            width = int(description["embeddings"]["dimensions"])
        if not hashes.keys() <= {KERAS_MODEL, LITERT_MODEL}:
            raise ValueError("other files")
    except (ValueError, KeyError, TypeError, RecursionError):
        raise InputError(
            f"{path}: not a readable {DESCRIPTION} of train.py; run train.py again"
        ) from None
    if version != MODEL_FORMAT:
        raise InputError(
            f"{path}: this model has format {version}, and these scripts read {MODEL_FORMAT}; "
            "run train.py again"
        )
    return hashes, width
