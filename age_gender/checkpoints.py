"""What interrupted work leaves: its settings in a folder, and a training's state of each epoch.

A state is one file that is replaced as a whole. Keras's BackupAndRestore writes weights and epoch
one after the other, in place: of 40 kills while it did, 2 left what it could not read, even with
`double_checkpoint`. Nor are the random states of the dropout in it.
"""

import json
import os
from collections.abc import Set
from pathlib import Path

import numpy as np

from age_gender import files
from age_gender.cli import InputError, is_machines

SETTINGS = "settings.json"
_NEEDED = "its name is needed for interrupted work: move it away, or choose another output"


def open_folder(folder: Path, settings: dict, resume: bool, anew: str) -> list[str]:
    """Make the folder for work with these settings; empty without `resume`.

    Returns the names of settings that the work to resume was begun with otherwise. Raises
    InputError for a folder that is not ours, and, with `anew` as what to do, where its settings
    cannot be read.
    """
    note = folder / SETTINGS
    before = _read_settings(folder, settings.keys(), anew)
    if resume and before is not None:
        return [key for key in settings if settings[key] != before.get(key)]
    remove_folder(folder)
    files.make_folder(folder)
    os.chmod(folder, 0o700)  # what it holds may be for fewer eyes than a new folder's files
    with files.whole_file(note, "w") as stream:
        json.dump(settings, stream)
    return []


def remove_folder(folder: Path) -> None:
    """Remove our files from a folder, its settings last, and the folder if it is empty then."""
    for path in [*folder.glob("*.npz"), *folder.glob(".*.part*"), folder / SETTINGS]:
        path.unlink(missing_ok=True)
    if folder.is_dir() and not os.listdir(folder):
        folder.rmdir()


def _read_settings(folder: Path, names: Set[str], anew: str) -> dict | None:
    """Return the settings in a folder; None if it is empty or not there.

    Raises InputError for a folder that is not ours: most of its settings have other names.
    """
    note = folder / SETTINGS
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        raise InputError(f"{folder}: here is a link or a file; {_NEEDED}")
    if not note.is_file():
        if folder.is_dir() and not all(_is_unfinished(path) for path in folder.iterdir()):
            raise InputError(f"{folder}: this folder holds other files; {_NEEDED}")
        return None
    try:
        before = dict(json.loads(note.read_text(encoding="utf-8")))
    except (ValueError, TypeError, RecursionError):
        raise InputError(f"{note}: cannot be read; {anew}") from None
    if 2 * len(before.keys() & names) <= len(before):
        raise InputError(f"{folder}: this folder holds other files; {_NEEDED}")
    return before


def _is_unfinished(path: Path) -> bool:
    """Return whether a file is what a killed `whole_file` leaves of the settings."""
    return path.name.startswith(f".{SETTINGS}.") and ".part" in path.name


def save(path: Path, model) -> None:
    """Write all that training changes: weights, states of random numbers, the optimizer's."""
    with files.whole_file(path) as stream:
        np.savez(stream, *[variable.numpy() for variable in _variables(model)])


def restore(path: Path, model) -> None:
    """Set a compiled model to the state that `save` wrote. Raises InputError for any other."""
    try:
        values = np.load(path).values()
        for variable, value in zip(_variables(model), values, strict=True):
            variable.assign(value)
    except Exception as error:  # NumPy, zipfile and Keras raise many on broken or foreign files
        if is_machines(error):
            raise
        raise InputError(
            f"{path}: not a state of this training; train anew without --resume"
        ) from None


def _variables(model) -> list:
    return model.variables + model.optimizer.variables
