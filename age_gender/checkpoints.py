"""What an interrupted training leaves for --resume: its settings, and a state after each epoch.

A state is one file that is replaced as a whole. Keras's BackupAndRestore writes weights and epoch
one after the other, in place: of 40 kills while it did, 2 left what it could not read, even with
`double_checkpoint`. Nor are the random states of the dropout in it.
"""

import json
import shutil
from pathlib import Path

import numpy as np

from age_gender import outputs, script
from age_gender.script import InputError


def open_folder(folder: Path, settings: dict, resume: bool) -> None:
    """Make the folder for a training with these settings; empty without `resume`.

    Raises InputError where the training to resume had other settings.
    """
    note = folder / "settings.json"
    if resume and note.exists():
        try:
            before = dict(json.loads(note.read_text()))
        except (ValueError, TypeError):
            raise InputError(f"{note}: cannot be read; train anew without --resume") from None
        changed = [key for key in settings if settings[key] != before.get(key)]
        if changed:
            raise InputError(
                f"{folder}: the interrupted training had another {', '.join(changed)}; "
                "give the same, or train anew without --resume"
            )
        return
    if resume:
        script.say("nothing to resume: training from the start")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    with outputs.whole_file(note, "w") as stream:
        json.dump(settings, stream)


def save(path: Path, model) -> None:
    """Write all that training changes: weights, states of random numbers, the optimizer's."""
    with outputs.whole_file(path) as stream:
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
