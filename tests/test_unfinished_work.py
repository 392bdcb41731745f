"""Folders of unfinished work: nothing of somebody else's is used or deleted."""

import os
from pathlib import Path

import pytest

from age_gender import checkpoints
from age_gender.errors import InputError

SETTINGS = {"images": "x", "seed": 1}


def work_begun(folder: Path) -> None:
    checkpoints.begin_or_resume(folder, SETTINGS, False, "")
    (folder / "0.npz").write_bytes(b"part")


def test_a_folder_of_unfinished_work_is_ours_only_with_our_settings_in_it(tmp_path):
    ours = tmp_path / "ours.partial"
    work_begun(ours)
    assert ours.stat().st_mode & 0o077 == 0
    checkpoints.begin_or_resume(ours, SETTINGS, False, "")
    assert os.listdir(ours) == ["settings.json"], "work of other settings goes"

    work_begun(ours)
    (tmp_path / "link.partial").symlink_to(ours)
    (tmp_path / "file.partial").write_text("mine")
    for name, content in [("theirs.partial", "thesis.txt"), ("code.partial", "settings.json")]:
        (tmp_path / name).mkdir()
        (tmp_path / name / content).write_text('{"editor.tabSize": 4}')
    for name in ("link", "file", "theirs", "code"):
        for resume in (False, True):
            with pytest.raises(InputError, match=rf"{name}\.partial: .*move"):
                checkpoints.begin_or_resume(tmp_path / f"{name}.partial", SETTINGS, resume, "")
    assert (ours / "0.npz").read_bytes() == b"part"
    assert (tmp_path / "theirs.partial" / "thesis.txt").exists()


def test_what_others_put_into_our_folder_stays(tmp_path):
    work_begun(tmp_path / "o.partial")
    (tmp_path / "o.partial" / "notes.txt").write_text("mine")
    checkpoints.remove_folder(tmp_path / "o.partial")
    assert os.listdir(tmp_path / "o.partial") == ["notes.txt"]


def test_settings_of_unfinished_work_that_no_script_wrote_are_refused(tmp_path):
    work_begun(tmp_path / "o.partial")
    for text in ("[" * 100_000, "{", '"\\ud800"', "\x00"):
        (tmp_path / "o.partial" / "settings.json").write_text(text)
        with pytest.raises(InputError, match=r"settings\.json: cannot be read; start anew"):
            checkpoints.begin_or_resume(tmp_path / "o.partial", SETTINGS, True, "start anew")
