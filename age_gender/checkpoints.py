"""What interrupted work leaves: its settings in a folder, and a training's state of each epoch.

A state is one file that is replaced as a whole. Keras's BackupAndRestore writes weights and epoch
one after the other, in place: of 40 kills while it did, 2 left what it could not read, even with
`double_checkpoint`. Nor are the random states of the dropout in it.
"""

import contextlib
import json
import os
import shutil
from pathlib import Path

import numpy as np

from age_gender import files
from age_gender.cli import InputError

SETTINGS = "settings.json"
_NEEDED = "its name is needed for interrupted work: move it away, or choose another output"


def open_folder(folder: Path, settings: dict, resume: bool, anew: str) -> list[str]:
    """Make the folder for work with these settings; empty without `resume`.

    Returns the names of settings that the work to resume was begun with otherwise. Raises
    InputError, with `anew` as what to do, where nobody can tell; and for a link, a file, or a
    folder of files that most of these settings do not stand in: it is somebody else's.
    """
    note, before = folder / SETTINGS, {}
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        raise InputError(f"{folder}: here is a link or a file; {_NEEDED}")
    with contextlib.suppress(OSError, ValueError, TypeError, RecursionError):
        before = dict(json.loads(note.read_text()))
    if resume and note.exists():
        if not before:
            raise InputError(f"{note}: cannot be read; {anew}")
        return [key for key in settings if settings[key] != before.get(key)]
    if folder.exists():
        is_new = all(name.startswith(f".{SETTINGS}.") for name in os.listdir(folder))
        if not is_new and len(before.keys() & settings.keys()) <= len(before) / 2:
            raise InputError(f"{folder}: this folder holds other files; {_NEEDED}")
        remove_folder(folder)
    files.make_folder(folder)
    with files.whole_file(note, "w") as stream:
        json.dump(settings, stream)
    return []


def remove_folder(folder: Path) -> None:
    """Remove a folder of work, the settings last: what a kill leaves is still known for ours."""
    for name in os.listdir(folder):
        path = folder / name
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        elif name != SETTINGS:
            path.unlink()
    shutil.rmtree(folder)


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
    except Exception:  # NumPy, zipfile and Keras raise many kinds on broken or foreign files
        raise InputError(
            f"{path}: not a state of this training; train anew without --resume"
        ) from None


def _variables(model) -> list:
    return model.variables + model.optimizer.variables
