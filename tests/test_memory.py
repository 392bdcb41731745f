"""run.py's memory stays bounded, whatever a row or a file is like."""

import contextlib
import itertools
import json
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter
from conftest import MODEL, Run, refused, script

from age_gender import paths
from age_gender.scoring import model_choice

MEASURE = """
import os, subprocess, sys
process = subprocess.Popen(sys.argv[2:])
_, status, usage = os.wait4(process.pid, 0)
open(sys.argv[1], "w").write(str(usage.ru_maxrss / 1024))
sys.exit(os.waitstatus_to_exitcode(status))
"""  # run in a small process: a child's peak counts from its parent's size


def peak_memory(folder: Path, stream, *arguments) -> tuple[Run, float]:
    """Run run.py on a stream of bytes; also its peak memory in MB."""
    command = [sys.executable, "-c", MEASURE, str(folder / "peak"), sys.executable]
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        process = subprocess.Popen(
            [*command, str(paths.ROOT / "run.py"), "--model", MODEL, *arguments],
            stdin=subprocess.PIPE, stdout=out, stderr=err,
        )  # fmt: skip
        with contextlib.suppress(BrokenPipeError), process.stdin:
            for part in stream:
                process.stdin.write(part)
        code = process.wait(timeout=100)
        texts = [file.seek(0) or file.read().decode() for file in (out, err)]
    return Run(code, *texts), float((folder / "peak").read_text())


@pytest.mark.parametrize(
    "part", [b"x" * (1 << 20), b'"' + b"1," * (1 << 19), b'x","\n' * (1 << 18)]
)
def test_memory_stays_bounded_whatever_a_line_is_like(tmp_path, rows, part):
    """60 MB without a row; all of it in memory even once, as text, would pass the bound."""
    good = ("\n".join(rows) + "\n").encode()
    _, usual = peak_memory(tmp_path, [good], "--features", "-")
    done, peak = peak_memory(tmp_path, [good, *[part] * 60], "--features", "-")
    refused(done, "standard input: row 7 (line 7)", "correct this row")
    assert peak < usual + 120, (peak, usual)


@pytest.mark.parametrize("is_array", [False, True])
@pytest.mark.parametrize("part", [b"1," * (1 << 19), b'"' + b"x" * (1 << 20), b"[" * (1 << 20)])
def test_memory_stays_bounded_whatever_an_object_is_like(tmp_path, rows, part, is_array):
    """The same of JSON: lines, and an array."""
    lists = [json.loads(f"[{row.partition(',')[2]}]") for row in rows]
    good = [json.dumps({"embedding": row}).encode() for row in lists]
    good = b"[" + b", ".join(good) + b", " if is_array else b"\n".join(good) + b"\n"
    _, usual = peak_memory(tmp_path, [good], "--features", "-")
    endless = [good, b'{"embedding": [', *[part] * 60]
    done, peak = peak_memory(tmp_path, endless, "--features", "-")
    refused(done, "standard input: row 7", "longer than")
    assert peak < usual + 120, (peak, usual)


def test_a_zip_bomb_is_read_in_blocks(tmp_path, rows):
    """600 MB of one number in a file of 0.6 MB, and a name of a megabyte for each row."""
    for order in (False, True):
        count = 300_000
        header = {"descr": "<f4", "fortran_order": order, "shape": (count, 512)}
        path = tmp_path / "bomb.npz"
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
            with archive.open("filenames.npy", "w") as member:
                np.lib.format.write_array(member, np.full(count, "x"))
            with archive.open("embeddings.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array_header_1_0(member, header)
                for _ in range(count // 1000):
                    member.write(bytes(1000 * 512 * 4))
        assert path.stat().st_size < 5e6
        done, peak = peak_memory(tmp_path, [], "--features", str(path))
        refused(done, "bomb.npz: row 1: a row of zeros")
        assert peak < 400, peak


def test_a_model_that_lacks_memory_does_not_blame_the_rows(rows, tmp_path, monkeypatch):
    """LiteRT's error for it is a RuntimeError, here of the first call after it was loaded."""

    def invoke(interpreter):
        if next(calls) > 0:
            raise RuntimeError("Failed to allocate memory for node 3 (XNNPACK)")
        return invoked(interpreter)

    calls, invoked = itertools.count(), Interpreter.invoke
    monkeypatch.setattr(Interpreter, "invoke", invoke)
    (tmp_path / "t.csv").write_text("\n".join(rows))
    done = script("run.py", "--features", tmp_path / "t.csv", "--model", MODEL)
    assert done.code == 1
    said = done.err.splitlines()[-1]
    assert said.startswith("run.py: error: not enough memory (Failed to allocate memory for node 3")
    assert "ulimit -v" in said and "bug" not in said


def test_a_model_that_was_loaded_is_not_blamed_where_another_thread_lacks_memory(monkeypatch):
    def fail(interpreter):
        raise RuntimeError("Failed to allocate memory for node 3 (XNNPACK)")

    scorer = model_choice.load(MODEL)
    scorer.idle_models.clear()  # as while another thread scores: it is loaded once more
    monkeypatch.setattr(Interpreter, "invoke", fail)
    with pytest.raises(MemoryError):
        scorer.score(np.ones((1, 512), np.float32))
