"""Killed at any moment, a script leaves complete files, and work that it can resume.

KILLS=50 pytest -k killed -s    the long version, which prints its figures
"""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import KILLS, kill_at_random, mobile_training, program, start, visible, wait_until

import train
from age_gender import checkpoints, paths, trained_models
from age_gender.errors import InputError

MODEL = str(paths.FACENET)


def test_run_killed_at_any_moment_leaves_the_old_output_or_the_whole_new_one(many, tmp_path):
    output = tmp_path / "out" / "out.csv"
    output.parent.mkdir()
    arguments = ["--features", many, "--output", output, "--model", MODEL, "--skip-bad-rows"]
    began = time.monotonic()
    assert program("run.py", *arguments).code == 0
    seconds, whole = time.monotonic() - began, output.read_bytes()
    assert whole.count(b"\n") == 4501
    killed = replaced = 0
    for _ in range(KILLS or 5):
        output.write_bytes(b"old")
        killed += kill_at_random("run.py", *arguments, within=seconds * 1.1)
        assert output.read_bytes() in (b"old", whole)
        replaced += output.read_bytes() == whole
        assert visible(output.parent) == ["out.csv", "out.errors.csv"]
    print(f"\nrun.py: {killed} killed while running, {replaced} had replaced the output")
    assert program("run.py", *arguments).code == 0 and output.read_bytes() == whole


def test_prepare_killed_at_any_moment_leaves_whole_record_files_or_none(
    table, record_folder, tmp_path
):
    arguments = ["--features", table, "--test-size", "150", "--output"]
    whole = {path.name: path.read_bytes() for path in record_folder.iterdir()}
    assert len(whole) == 4
    finished = 0
    for number in range(KILLS or 2):
        folder = tmp_path / str(number)
        folder.mkdir()
        process = start("prepare.py", *arguments, folder, stderr=subprocess.DEVNULL)
        wait_until(lambda folder=folder: os.listdir(folder), 100)  # it has begun to write
        time.sleep(random.uniform(0, 0.3))
        process.kill()
        process.wait()
        for name in visible(folder):
            assert (folder / name).read_bytes() == whole[name]
        finished += len(visible(folder)) == 4
    print(f"\nprepare.py: {finished} of {KILLS or 2} had written all files when they were killed")


def test_a_training_killed_and_interrupted_and_resumed_ends_as_if_it_had_not_been(
    mobile_folder, tmp_path, monkeypatch
):
    """Killed after its first epoch, and with KILLS at random moments of a longer training."""
    whole, folder, work = (
        mobile_folder / "model",
        tmp_path / "models",
        tmp_path / "models/.training",
    )
    arguments, more = mobile_training(mobile_folder, folder), []
    if KILLS:
        whole, more = tmp_path / "whole", ["--epochs", "8"]
        began = time.monotonic()
        assert program("train.py", *mobile_training(mobile_folder, whole), *more).code == 0
        within = time.monotonic() - began
    process = start("train.py", *arguments, *more, stderr=subprocess.DEVNULL)
    wait_until((work / "validation.npz").exists, 100)
    process.kill()
    killed, resumed = process.wait() == -signal.SIGKILL, 1
    for _ in range(KILLS):
        killed += kill_at_random("train.py", *arguments, *more, "--resume", within=within)
        if (folder / trained_models.DESCRIPTION).exists():  # finished: the next one starts anew
            assert trained_models.find_model_file(folder, trained_models.LITERT_MODEL)
            assert described(folder) == described(whole)
            shutil.rmtree(folder)
        resumed += any(work.glob("[!.]*.npz"))
    print(f"\ntrain.py: {killed} killed while running, {resumed} times there was a state to resume")
    for state in work.glob("[!.]*.npz"):
        with np.load(state) as arrays:
            assert all(arrays[name] is not None for name in arrays)

    def save_and_interrupt(state: Path, trainer) -> None:
        save(state, trainer)
        if state.stem == "final":
            raise KeyboardInterrupt

    save = checkpoints.save
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(checkpoints, "save", save_and_interrupt)
        train.main([*arguments, *more, "--resume"])
    assert not (folder / trained_models.DESCRIPTION).exists()
    train.main([*arguments, *more, "--resume"])
    assert described(folder) == described(whole)
    assert visible(folder) == visible(whole) and not work.exists()


def described(folder: Path) -> tuple:
    """A model's figures, and the hash of what scores."""
    card = json.loads((folder / trained_models.DESCRIPTION).read_text())
    return (
        card["validation"],
        card["calibration"],
        card["epochs"],
        card["files"][trained_models.LITERT_MODEL],
    )


REPLACING = """
import os, sys
from pathlib import Path
from age_gender import trained_models

class Network:
    def save(self, path):
        path.write_bytes(b"new network")

def replace_and_die(*paths, replace=os.replace):
    global renames
    replace(*paths)
    renames -= 1
    if not renames:
        os._exit(9)

renames = int(sys.argv[2])
os.replace = replace_and_die
description = {"embeddings": {"dimensions": 16}}
trained_models.write_model(Path(sys.argv[1]), Network(), b"new model", description)
"""


@pytest.mark.parametrize("renames", [1, 2, 3])
@pytest.mark.parametrize("had_a_model", [False, True])
def test_a_training_killed_between_its_files_leaves_a_whole_model_or_a_refused_one(
    tmp_path, renames, had_a_model
):
    if had_a_model:
        old = SimpleNamespace(save=lambda path: path.write_bytes(b"old network"))
        trained_models.write_model(tmp_path, old, b"old", {"embeddings": {"dimensions": 16}})
    command = [sys.executable, "-c", REPLACING, tmp_path, str(renames)]
    assert subprocess.run(command, cwd=paths.ROOT).returncode == 9

    if renames == 3 or (renames == 2 and not had_a_model):  # only the description is missing
        model = trained_models.find_model_file(tmp_path, trained_models.LITERT_MODEL)
        network = trained_models.find_model_file(tmp_path, trained_models.KERAS_MODEL)
        assert (model.read_bytes(), network.read_bytes()) == (b"new model", b"new network")
    else:
        with pytest.raises(InputError, match=r"python train\.py"):
            trained_models.find_model_file(tmp_path, trained_models.LITERT_MODEL)
    assert [*trained_models.find_model_widths(tmp_path)] == [tmp_path] * (
        had_a_model or renames == 3
    )
