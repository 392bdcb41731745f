"""embed.py's inputs, outputs and kept work: nothing of somebody's is lost, mixed or misread."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from damages import DAMAGES, fewer_faces
from small_networks import sandberg_graph
from test_embed import chips_in, embedded, interrupt, names_in, run

import embed
from age_gender.errors import InputError
from age_gender.photographs.batch_results import BatchResult, write_result
from age_gender.photographs.chips import encode_png, find_chip_path, write_chip
from benchmarks.drawn_faces import draw_chip

pytest.importorskip("cv2")
HEADER = "filename,gender,age,age_low,age_high,female_probability\n"


@pytest.fixture
def command(tmp_path) -> list[str]:
    """embed.py's arguments for 8 chips, with a small graph."""
    (tmp_path / "small.pb").write_bytes(sandberg_graph(512))
    images = chips_in(tmp_path / "in", 8)
    return ["--images", str(images), "--aligned", "--facenet", str(tmp_path / "small.pb"),
            "--output", str(tmp_path / "o.npz")]  # fmt: skip


@pytest.fixture
def interrupted(command, monkeypatch) -> list[Path]:
    """The results of work that was interrupted before its output was written."""
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(embed, "read_embeddings", interrupt)
        embed.main(command)
    results = sorted(Path(f"{command[-1]}.partial").glob("[0-9]*.npz"))
    assert len(results) > 1
    return results


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


# ---------------------------------------------------------------- resumed with other images


@pytest.mark.parametrize("change", ["size", "time", "folder", "link to the folder", "name"])
def test_work_is_not_resumed_with_other_pictures_of_the_same_names(
    tmp_path, command, interrupted, change
):
    image = tmp_path / "in" / "00.png"
    if change == "size":
        draw_chip(99, 61).save(image)
    elif change == "time":
        status = image.stat()
        os.utime(image, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    elif change == "name":
        image.rename(tmp_path / "in" / "new.png")
    elif change == "link to the folder":
        (tmp_path / "in").rename(tmp_path / "elsewhere")
        shutil.copytree(tmp_path / "elsewhere", tmp_path / "others")
        (tmp_path / "in").symlink_to("others")
    else:
        shutil.copytree(tmp_path / "in", tmp_path / "copy")
        command[1] = str(tmp_path / "copy")
    before = contents(tmp_path)

    with pytest.raises(InputError, match=r"different --images \(or their files have changed\)"):
        embed.main(command)

    assert contents(tmp_path) == before


def test_the_same_pictures_are_resumed(command, interrupted, capfd):
    interrupted[0].unlink()

    assert len(embedded(*command)) == 8

    assert "continues after " in capfd.readouterr().err
    assert not interrupted[0].parent.exists()


def test_chips_that_are_gone_when_work_is_resumed_are_made_again(tmp_path, command, monkeypatch):
    command += ["--chips", str(tmp_path / "chips")]
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(embed, "read_embeddings", interrupt)
        embed.main(command)
    chips = contents(tmp_path / "chips")
    (tmp_path / "chips" / "03.png.png").unlink()

    embed.main(command)

    assert contents(tmp_path / "chips") == chips and len(chips) == 8


# ------------------------------------------------------------- a folder of somebody else's


@pytest.mark.parametrize("files", [
    {"notes.txt": "mine"},
    {"settings.json": '{"editor.fontSize": 12}'},
    {"settings.json": "// not JSON\n{}"},
    {"0000000000.npz": "mine"},
])  # fmt: skip
def test_a_folder_of_somebody_elses_is_refused_and_left_as_it_is(tmp_path, command, files):
    folder = tmp_path / "o.npz.partial"
    folder.mkdir()
    for name, text in files.items():
        (folder / name).write_text(text)
    before = contents(tmp_path)

    with pytest.raises(InputError, match=r"o\.npz\.partial.*move"):
        embed.main(command)

    assert contents(tmp_path) == before


@pytest.mark.parametrize("target", ["folder", "kept work", "nothing"])
def test_a_link_in_place_of_the_folder_is_refused(tmp_path, command, interrupted, target):
    ours = interrupted[0].parent
    place = ours.rename(tmp_path / "elsewhere")
    if target == "folder":
        place = tmp_path / "other"
        place.mkdir()
        (place / "notes.txt").write_text("mine")
    elif target == "nothing":
        place = tmp_path / "none"
    ours.symlink_to(place)
    before = contents(tmp_path)

    with pytest.raises(InputError, match=r"o\.npz\.partial: .*link.*move"):
        embed.main(command)

    assert contents(tmp_path) == before and ours.is_symlink()


@pytest.mark.parametrize("leftovers", [[], [".settings.json.1234.part.json"]])
def test_what_a_kill_leaves_before_the_settings_is_started_anew(tmp_path, command, leftovers):
    (tmp_path / "o.npz.partial").mkdir()
    for name in leftovers:
        (tmp_path / "o.npz.partial" / name).write_text("{")

    assert len(embedded(*command)) == 8


def test_killed_while_the_finished_work_is_removed_it_is_done_again(command, interrupted):
    """Of the folder the settings are there to the last."""
    for result in interrupted:
        result.unlink()

    assert len(embedded(*command)) == 8


# ------------------------------------------------------------------------ damaged results


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("suffix, number", [(".npz", 0), (".csv", 1)])
def test_a_damaged_part_is_refused_before_it_is_used(
    tmp_path, command, monkeypatch, damage, suffix, number
):
    command[-1] = str(tmp_path / f"o{suffix}")
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(embed, "read_embeddings", interrupt)
        embed.main(command)
    results = sorted((tmp_path / f"o{suffix}.partial").glob("[0-9]*.npz"))
    with np.load(results[number]) as arrays:
        write_result(results[number], damage(BatchResult(**arrays)))

    with pytest.raises(InputError, match=rf"{results[number].name}: damaged.* remove this file"):
        embed.main(command)

    assert not Path(command[-1]).exists() and all(result.exists() for result in results)
    results[number].unlink()
    assert len(embedded(*command)) == 8


def test_a_part_that_changes_while_the_output_is_written_leaves_no_output(
    tmp_path, command, monkeypatch
):
    """A table is checked before the results go: here another process replaces one of them."""

    def replace_a_part(batches, *arguments):
        result = next(iter(batches))
        with np.load(result) as arrays:
            write_result(result, fewer_faces(BatchResult(**arrays)))
        return embed_rows(batches, *arguments)

    embed_rows = embed.read_embeddings
    monkeypatch.setattr(embed, "read_embeddings", replace_a_part)

    with pytest.raises(InputError, match="damaged"):
        embed.main(command)

    assert not (tmp_path / "o.npz").exists() and (tmp_path / "o.npz.partial").exists()


# ------------------------------------------------------------- outputs that are inputs


def test_the_sheet_overwrites_no_chip_and_no_predictions(tmp_path):
    chips = tmp_path / "chips"
    for name in ("a", "b"):
        write_chip(chips, name, encode_png(np.asarray(draw_chip())))
    (tmp_path / "ages.csv").write_text(HEADER + "a,0,34,28,41,0.02\n")
    (tmp_path / "linked").symlink_to(chips)
    before = contents(tmp_path)

    for sheet in ("chips/a.png", "chips/b.png", "linked/a.png", "ages.csv"):
        with pytest.raises(InputError, match="overwrite"):
            embed.main(["--sheet", str(tmp_path / sheet), "--chips", str(chips),
                        "--predictions", str(tmp_path / "ages.csv")])  # fmt: skip

    assert contents(tmp_path) == before


def test_the_output_overwrites_neither_image_nor_network(tmp_path, command):
    network = Path(command[-3]).rename(tmp_path / "network.npz")
    command[-3] = str(network)
    before = contents(tmp_path)

    for output in (network, tmp_path / "in" / "00.npz"):
        if output != network:
            output.symlink_to(tmp_path / "in" / "00.png")
        with pytest.raises(InputError, match="overwrite this input"):
            embed.main([*command[:-1], str(output)])

    assert {path: contents(tmp_path)[path] for path in before} == before


def test_chips_are_not_written_through_links(tmp_path, command):
    photograph = tmp_path / "in" / "00.png"
    (tmp_path / "chips").mkdir()
    (tmp_path / "chips" / "00.png.png").symlink_to(photograph)
    before = photograph.read_bytes()

    with pytest.raises(InputError, match=r"00\.png\.png: this path leads through a link"):
        embed.main([*command, "--chips", str(tmp_path / "chips")])

    assert photograph.read_bytes() == before


# --------------------------------------------------------------------------- names


@pytest.mark.parametrize("names", [
    ["g.jpg", "g.jpg.png/h.jpg"],
    ["g.jpg", "g.jpg.PNG/h.jpg", "g.jpg.png_/h.jpg", "g.jpg.png/h.jpg"],
    ["a/g.jpg", "a/g.jpg.png/g.jpg.png/g.jpg", "a/g.jpg.png/g.jpg"],
])  # fmt: skip
def test_photographs_whose_chips_would_bear_the_names_of_folders_can_be_finished(
    tmp_path, command, names
):
    shutil.rmtree(tmp_path / "in")
    for i, name in enumerate(names):
        path = tmp_path / "in" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        draw_chip(i, 160).save(path, format="PNG")

    embeddings = embedded(*command, "--chips", tmp_path / "chips")

    from PIL import Image

    assert sorted(embeddings) == sorted(names)
    for i, name in enumerate(names):
        chip = np.asarray(Image.open(find_chip_path(tmp_path / "chips", name)))
        np.testing.assert_array_equal(chip, np.asarray(draw_chip(i, 160)))


def test_names_outlive_a_locale_without_utf_8(tmp_path, command):
    locale = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    folder = os.fsencode(tmp_path / "in")
    for i, name in enumerate(("Zoë, 3.png".encode(), b"not UTF-8 \xff.png", "日本.png".encode())):
        os.rename(os.path.join(folder, b"%02d.png" % i), os.path.join(folder, name))

    result = run(*command, "--chips", tmp_path / "chips", environment=locale)

    assert result.returncode == 0, result.stderr
    with np.load(tmp_path / "o.npz") as table:
        names = table["filenames"].tolist()
    assert {"Zoë, 3.png", "not UTF-8 \\xff.png", "日本.png"} < {*names} and len(names) == 8
    chips = os.listdir(os.fsencode(tmp_path / "chips"))
    assert {f"{name}.png".encode() for name in names} == {*chips}
    ages = HEADER + "".join(f'"{name}",0,34,28,41,0.02\n' for name in names)
    (tmp_path / "ages.csv").write_text(ages, encoding="utf-8")
    sheet = run("--sheet", tmp_path / "s.png", "--chips", tmp_path / "chips", "--predictions",
                tmp_path / "ages.csv", environment=locale)  # fmt: skip
    assert sheet.returncode == 0 and "8 faces" in sheet.stderr, sheet.stderr


def test_names_that_are_no_text_cannot_come_from_predictions(tmp_path):
    (tmp_path / "chips").mkdir()
    (tmp_path / "ages.csv").write_bytes(HEADER.encode() + b"\xed\xa0\x80.jpg,0,34,28,41,0.02\n")

    with pytest.raises(InputError, match="not a CSV of predictions"):
        embed.main(["--sheet", str(tmp_path / "s.png"), "--chips", str(tmp_path / "chips"),
                    "--predictions", str(tmp_path / "ages.csv")])  # fmt: skip


# ------------------------------------------------------------------------ the last lines


@pytest.mark.parametrize("good, bad, lines", [
    (1, 0, ["1 face, 1 image, ", "0 of 1 file skipped"]),
    (1, 2, ["1 face, 3 images, ", "2 of 3 files skipped: 2 unreadable"]),
    (2, 1, ["2 faces, 3 images, ", "1 of 3 files skipped: 1 unreadable"]),
])  # fmt: skip
def test_singular_and_plural_agree(tmp_path, command, capfd, good, bad, lines):
    shutil.rmtree(tmp_path / "in")
    images = chips_in(tmp_path / "in", good)
    for i in range(bad):
        (images / f"bad{i}.png").write_bytes(b"broken")

    embed.main(command)

    *_, table, skipped = capfd.readouterr().err.splitlines()
    assert table.startswith(f"{tmp_path}/o.npz: {lines[0]}") and skipped == lines[1]


def test_the_settings_are_kept_in_words(command, interrupted):
    settings = json.loads((interrupted[0].parent / "settings.json").read_text())

    assert settings["aligned"] is True and settings["batch-size"] == 32


def test_nothing_is_left_beside_a_finished_output(tmp_path, command):
    embedded(*command)

    assert sorted(names_in(tmp_path)) == ["in", "o.npz", "small.pb"]
