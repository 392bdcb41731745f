"""What interrupted work leaves: its settings in a folder, and a training's state of each epoch.

A state is one file that is replaced as a whole. Keras's BackupAndRestore writes weights and epoch
one after the other, in place: of 40 kills while it did, 2 left what it could not read, even with
`double_checkpoint`. Nor are the random states of the dropout in it.
"""

import json
import shutil
from pathlib import Path

import numpy as np

from age_gender import files
from age_gender.cli import InputError

SETTINGS = "settings.json"


def open_folder(folder: Path, settings: dict, resume: bool, anew: str) -> list[str]:
    """Make the folder for work with these settings; empty without `resume`.

    Returns the names of settings that the work to resume was begun with otherwise. Raises
    InputError, with `anew` as what to do, where nobody can tell.
    """
    note = folder / SETTINGS
    if resume and note.exists():
        try:
            before = dict(json.loads(note.read_text()))
        except (ValueError, TypeError):
            raise InputError(f"{note}: cannot be read; {anew}") from None
        return [key for key in settings if settings[key] != before.get(key)]
    shutil.rmtree(folder, ignore_errors=True)
    files.make_folder(folder)
    with files.whole_file(note, "w") as stream:
        json.dump(settings, stream)
    return []


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
