"""Finding files in folders and by globs, with links among them."""

import os
from pathlib import Path

import pytest

from age_gender import files
from age_gender.photographs.images import find_images
from age_gender.readers import tables


@pytest.fixture
def linked(tmp_path, monkeypatch) -> Path:
    """Two files, and links to the folder itself, to one below, to a file, and to nothing."""
    monkeypatch.chdir(tmp_path)
    for name in ("a.csv", "below/b.csv", ".hidden/c.csv", "below/.d.csv"):
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).write_text("")
    os.symlink(".", "again")
    os.symlink("..", "below/up")
    os.symlink("below", "beside")
    os.symlink("a.csv", "0.csv")
    os.symlink("nowhere", "broken.csv")
    return tmp_path


@pytest.mark.parametrize("given", [
    ["."], ["**/*.csv"], ["**"], ["./**/*.csv"], ["a.csv", "**/b.csv"], ["*", "below/*"], ["again"],
])  # fmt: skip
def test_a_table_is_read_once_whatever_links_lead_to_it(linked, given):
    os.unlink("broken.csv")

    paths = tables.list_files(given)

    assert sorted(map(os.path.realpath, paths)) == [f"{linked}/a.csv", f"{linked}/below/b.csv"]


def test_of_a_link_and_its_target_the_target_is_taken(linked):
    os.unlink("broken.csv")

    assert tables.list_files(["*.csv"]) == ["a.csv"]
    assert tables.list_files(["0.csv"]) == ["0.csv"], "the user names it"


@pytest.mark.parametrize("given", [["."], ["**/*.png"], ["**/**/*.png"], [".", "again"]])
def test_an_image_is_read_once_whatever_links_lead_to_it(linked, given):
    for name in ("e.png", "below/f.png"):
        Path(name).write_bytes(b"")
    os.symlink("e.png", "d.png")

    assert find_images(given, None) == (linked, ["below/f.png", "e.png"])


def test_images_that_are_links_out_of_the_folder_are_found_below_it(tmp_path):
    (tmp_path / "album").mkdir()
    (tmp_path / "photograph.png").write_bytes(b"")
    os.symlink("../photograph.png", tmp_path / "album" / "a.png")
    os.symlink("../photograph.png", tmp_path / "album" / "b.png")

    root, images = find_images([str(tmp_path / "album")], None)

    assert root == tmp_path / "album" and len(images) == 1


def test_chips_that_are_left_by_an_earlier_run_are_no_photographs(linked):
    for name in ("e.png", "below/chip.png"):
        Path(name).write_bytes(b"")

    assert find_images(["."], Path("beside"))[1] == ["e.png"]


@pytest.mark.parametrize("pattern, expected", [
    ("**/*.csv", ["a.csv", "below/b.csv"]),
    ("below/**", ["below/b.csv"]),
    ("b*/**/*.csv", ["below/b.csv", "beside/b.csv"]),
    ("**/below/**/*.csv", ["below/b.csv"]),
    ("*.csv", ["a.csv"]),
    ("x**", []),
])  # fmt: skip
def test_a_glob_matches_as_in_a_shell_without_following_links(linked, pattern, expected):
    for name in ("0.csv", "broken.csv"):
        os.unlink(name)

    matches = {path for path in files.expand_glob(pattern) if os.path.isfile(path)}

    assert sorted(matches) == expected


def test_a_glob_may_be_absolute_and_hold_brackets(tmp_path):
    (tmp_path / "[1]").mkdir()
    (tmp_path / "[1]" / "a.csv").write_text("")

    assert [*files.expand_glob(f"{tmp_path}/**/a.csv")] == [f"{tmp_path}/[1]/a.csv"]
