"""Save and restore interrupted work: its settings, and a training's state after each epoch.

A state is a file that is replaced atomically. Keras's BackupAndRestore writes weights and epoch
one after the other, in place: 2 of 40 kills during a save made the backup unreadable, even with
`double_checkpoint`. It does not save the random states of the dropout either.
"""

import json
import os
from collections.abc import Set
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from age_gender import files
from age_gender.cli import say
from age_gender.errors import InputError, is_resource_shortage

if TYPE_CHECKING:
    import keras

SETTINGS = "settings.json"
_RESERVED = "this name is reserved for unfinished work; move it, or choose another output"


def begin_or_resume(folder: Path, settings: dict, resume: bool, restart_hint: str) -> None:
    """Prepare the folder for work with these `settings` (by option); keep its results if `resume`.

    Raises InputError for a folder with other files, and for work to resume whose settings differ or
    cannot be read; `restart_hint` then ends the message.
    """
    before = _read_settings(folder, settings.keys(), restart_hint)
    if resume and before is None:
        say("nothing to resume: starting from the beginning")
    elif resume:
        changed = [name for name in settings if settings[name] != before.get(name)]
        if changed:
            options = ", ".join(f"--{name.replace('_', '-')}" for name in changed)
            raise InputError(
                f"{folder}: started with different {options} (or their files have changed); give "
                f"the same to continue, or {restart_hint}"
            )
        return
    remove_folder(folder)
    files.make_folder(folder)
    os.chmod(folder, 0o700)  # its files may be copies of an output that others may not read
    with files.atomic_file(folder / SETTINGS, "w") as stream:
        json.dump(settings, stream)


def remove_folder(folder: Path) -> None:
    """Remove the files of unfinished work, its settings last, and the folder if that empties it."""
    for path in [*folder.glob("*.npz"), *folder.glob(".*.part*"), folder / SETTINGS]:
        path.unlink(missing_ok=True)
    if folder.is_dir() and not os.listdir(folder):
        folder.rmdir()


def _read_settings(folder: Path, names: Set[str], restart_hint: str) -> dict | None:
    """Return the settings in a folder, or None if it is empty or missing.

    Raises InputError for a folder of another program, most of whose settings have other names.
    """
    settings_file = folder / SETTINGS
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        raise InputError(f"{folder}: this is a file or a link; {_RESERVED}")
    if not settings_file.is_file():
        if folder.is_dir() and not all(_is_unfinished(path) for path in folder.iterdir()):
            raise InputError(f"{folder}: this folder contains other files; {_RESERVED}")
        return None
    try:
        before = dict(json.loads(settings_file.read_text(encoding="utf-8")))
    except (ValueError, TypeError, RecursionError):
        raise InputError(f"{settings_file}: cannot be read; {restart_hint}") from None
    if 2 * len(before.keys() & names) <= len(before):
        raise InputError(f"{folder}: this folder contains other files; {_RESERVED}")
    return before


def _is_unfinished(path: Path) -> bool:
    """Return whether a file is a temporary settings file that a killed process left."""
    return path.name.startswith(f".{SETTINGS}.") and ".part" in path.name


def save(path: Path, model: "keras.Model") -> None:
    """Write the state of a training: weights, random states and the optimizer's state."""
    with files.atomic_file(path) as stream:
        np.savez(stream, *[variable.numpy() for variable in _variables(model)])


def restore(path: Path, model: "keras.Model") -> None:
    """Set a compiled model to the state that `save` wrote. Raises InputError for any other."""
    try:
        values = np.load(path).values()
        for variable, value in zip(_variables(model), values, strict=True):
            variable.assign(value)
    except Exception as error:  # NumPy, zipfile and Keras raise many types on other files
        if is_resource_shortage(error):
            raise
        raise InputError(
            f"{path}: not a checkpoint of this training; run train.py without --resume"
        ) from None


def _variables(model: "keras.Model") -> list:
    """Return all variables of a model and of its optimizer, in a fixed order."""
    return model.variables + model.optimizer.variables
