"""Trained models: their files, their folders in models/, and which of them `--model` means."""

import contextlib
import json
import os
from pathlib import Path

from age_gender import paths
from age_gender.cli import InputError
from age_gender.files import sha256, whole_path

KERAS_MODEL = "age_gender.keras"
LITERT_MODEL = "age_gender.tflite"
DESCRIPTION = "age_gender.json"
MODEL_FORMAT = 1  # raised when the outputs of the exported model change


def write_model(folder: Path, network, exported: bytes, description: dict) -> None:
    """Write the Keras `network`, the exported model and the description.

    Each appears whole; the description, which has the others' hashes, last.
    """
    with contextlib.ExitStack() as stack:  # ends in the reverse order
        names = DESCRIPTION, LITERT_MODEL, KERAS_MODEL
        text, litert, keras = (stack.enter_context(whole_path(folder / name)) for name in names)
        network.save(keras)
        litert.write_bytes(exported)
        hashes = {KERAS_MODEL: sha256(keras), LITERT_MODEL: sha256(litert)}
        found = {"format": MODEL_FORMAT, "files": hashes} | description
        text.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


def find_model(model: str | os.PathLike[str] | None, options: str) -> Path:
    """The path of the `options` file (KERAS_MODEL or LITERT_MODEL) of a trained model.

    `model` is a folder, one of its files, or None for what train.py wrote in models/ and else
    models/facenet/. Raises InputError, also where age_gender.json beside it has other hashes.
    """
    if model is None:
        model = (paths.MODELS if (paths.MODELS / DESCRIPTION).exists() else paths.FACENET) / options
    elif not Path(model).exists():
        raise InputError(f"{model}: no such model; give a folder that train.py wrote")
    path = Path(model)
    if path.is_dir():
        path /= options
    elif path.suffix not in (".keras", ".tflite", ".json"):
        raise InputError(f"{path}: not a model; give a folder that train.py wrote")
    elif path.suffix != Path(options).suffix:
        path = path.with_name(options)
    if not path.exists():
        raise InputError(f"{path}: no such model file; train.py writes it (python train.py)")
    if path.with_name(DESCRIPTION).exists():
        _check_hashes(path.with_name(DESCRIPTION), path)
    return path


def _check_hashes(card_path: Path, path: Path) -> None:
    try:
        card = json.loads(card_path.read_text(encoding="utf-8"))
        version, hashes = card["format"], dict(card["files"])
        if not hashes.keys() <= {KERAS_MODEL, LITERT_MODEL}:
            raise ValueError("other files")
    except (ValueError, KeyError, TypeError, RecursionError):
        raise InputError(f"{card_path}: not a model description; run train.py again") from None
    if version != MODEL_FORMAT:
        raise InputError(
            f"{card_path}: model of format {version}, these scripts read format {MODEL_FORMAT}; "
            "run train.py again"
        )
    for name, value in hashes.items():
        file = card_path.with_name(name)
        if file.exists() and value != sha256(file):
            raise InputError(f"{file}: not the file that {card_path.name} describes; train again")
    if sha256(path) not in hashes.values():
        raise InputError(f"{path}: not a file that {card_path.name} describes; train again")
