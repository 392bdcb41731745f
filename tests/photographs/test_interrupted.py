"""embed.py killed, interrupted, short of disk, resumed, and on Dask: the rows are the same."""

import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from conftest import KILLS, kill_at_random
from small_networks import sandberg_graph, square_means
from test_embed import SCRIPT, chips_in, embedded, interrupt, run

import embed
from age_gender.errors import InputError
from age_gender.readers import tables
from benchmarks.drawn_faces import draw_chip

pytest.importorskip("cv2")


@pytest.fixture
def small_graph(tmp_path) -> Path:
    path = tmp_path / "small.pb"
    path.write_bytes(sandberg_graph(512))
    return path


@pytest.fixture(scope="module")
def litert_network(tmp_path_factory) -> Path:
    """A network that needs no TensorFlow: embed.py starts in a second."""
    return square_means(tmp_path_factory.mktemp("network"), 1)


def test_killed_at_any_moment_it_goes_on_and_ends_the_same(litert_network, tmp_path):
    images = chips_in(tmp_path / "in", 99)
    same = ["--images", images, "--aligned", "--embedder", litert_network, "--batch-size", 1]
    expected = embedded(*same, "--output", tmp_path / "whole.npz")
    began = time.monotonic()
    assert not KILLS or run(*same, "--output", tmp_path / "whole.npz").returncode == 0
    seconds = time.monotonic() - began
    output, partial = tmp_path / "killed.npz", tmp_path / "killed.npz.partial"
    command = [*same, "--output", output]
    kept = []
    for parts in (1, 9):
        process = subprocess.Popen(
            [sys.executable, str(SCRIPT), *map(str, command)], stderr=subprocess.DEVNULL
        )
        while len(list(partial.glob("[0-9]*.npz"))) < parts and process.poll() is None:
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        assert not output.exists()
        for path in partial.glob("[0-9]*.npz"):
            np.load(path).close()  # whole
        kept.append({path.name: path.stat().st_mtime_ns for path in partial.glob("[0-9]*.npz")})

    assert kept[0].items() <= kept[1].items(), "what was done was done again"
    killed = finished = 0
    for _ in range(KILLS):
        killed += kill_at_random(SCRIPT.name, *command, within=seconds)
        if output.exists():  # finished: the next run starts again
            assert list(dict(zip(*tables.read([output]), strict=True))) == list(expected)
            output.unlink()
            finished += 1
        for path in partial.glob("[0-9]*.npz"):
            np.load(path).close()
    print(f"\nembed.py: {killed} killed while running, {finished} had finished")
    kept.append(list(partial.glob("[0-9]*.npz")))

    last = run(*command)

    assert last.returncode == 0, last.stderr
    assert not kept[-1] or re.search(rf"continues after {len(kept[-1])} of 99 images", last.stderr)
    embeddings = dict(zip(*tables.read([output]), strict=True))
    assert list(embeddings) == list(expected)
    np.testing.assert_allclose([*embeddings.values()], [*expected.values()], atol=1e-5)
    assert not partial.exists()


def test_the_work_of_another_command_is_not_taken_for_this_one(
    litert_network, tmp_path, monkeypatch
):
    images = chips_in(tmp_path / "in", 4)
    command = ["--images", str(images), "--output", str(tmp_path / "o.npz"), "--aligned",
               "--embedder", str(litert_network)]  # fmt: skip
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(embed, "read_embeddings", interrupt)
        embed.main(command)
    before = sorted((tmp_path / "o.npz.partial").glob("[0-9]*.npz"))
    assert before

    with pytest.raises(InputError, match=r"o.npz.partial: started with different --batch-size"):
        embed.main([*command, "--batch-size", "2"])
    draw_chip().save(images / "new.png")
    with pytest.raises(InputError, match=r"different --images .*remove .*partial to start again"):
        embed.main(command)
    assert sorted((tmp_path / "o.npz.partial").glob("[0-9]*.npz")) == before

    (images / "new.png").unlink()
    before[0].write_bytes(before[0].read_bytes()[:100])
    with pytest.raises(InputError, match=r"0000000000.npz: damaged.* remove this file"):
        embed.main(command)
    (tmp_path / "o.npz.partial" / "settings.json").write_text("{")
    with pytest.raises(InputError, match=r"settings.json: cannot be read.*partial"):
        embed.main(command)


def test_a_finished_output_is_made_anew(litert_network, tmp_path):
    images = chips_in(tmp_path / "in", 2)
    command = ("--images", images, "--aligned", "--embedder", litert_network,
               "--output", tmp_path / "o.npz")  # fmt: skip
    first = embedded(*command)
    draw_chip(7, 60).save(images / "00.png")

    second = embedded(*command)

    assert np.abs(first["00.png"] - second["00.png"]).max() > 0.01
    np.testing.assert_allclose(first["01.png"], second["01.png"], atol=1e-5)


def test_dask_gives_the_same_rows(small_graph, tmp_path):
    images = chips_in(tmp_path / "in", 6)
    (images / "02.png").write_bytes(b"broken")
    same = ["--images", images, "--aligned", "--facenet", small_graph]
    here = embedded(*same, "--output", tmp_path / "here.npz")

    result = run(*same, "--output", tmp_path / "o.npz", "--dask", "local")

    assert result.returncode == 0, result.stderr
    lines = result.stderr.splitlines()
    assert len(lines) == 4 and lines[-1] == "1 of 6 files skipped: 1 unreadable", lines
    embeddings = dict(zip(*tables.read([tmp_path / "o.npz"]), strict=True))
    assert list(embeddings) == list(here)
    np.testing.assert_allclose([*embeddings.values()], [*here.values()], atol=1e-5)


def test_ctrl_c_and_a_full_disk_end_with_one_line(litert_network, tmp_path):
    images = chips_in(tmp_path / "in", 99)
    command = ["--images", images, "--aligned", "--output", tmp_path / "o.npz", "--batch-size", 1,
               "--embedder", litert_network]  # fmt: skip
    process = subprocess.Popen(
        [sys.executable, str(SCRIPT), *map(str, command)], stderr=subprocess.PIPE, text=True
    )
    while not list((tmp_path / "o.npz.partial").glob("[0-9]*.npz")):
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    messages = process.communicate()[1].splitlines()
    assert process.returncode == 130
    assert len(messages) == 2 and messages[1] == "embed.py: interrupted", messages

    # the output is larger than a file may be, those of the batches are not
    limited = f"""
import resource, runpy, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (8192, 8192))
sys.argv[0] = {str(SCRIPT)!r}
runpy.run_path(sys.argv[0], run_name="__main__")
"""
    full = subprocess.run(
        [sys.executable, "-c", limited, *map(str, command)], capture_output=True, text=True
    )
    assert full.returncode == 1, full.stderr
    assert "file too large" in full.stderr.splitlines()[-1]
    assert "Traceback" not in full.stderr and not (tmp_path / "o.npz").exists()
    assert json.loads((tmp_path / "o.npz.partial" / "settings.json").read_text())["aligned"]
