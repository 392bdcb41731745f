"""Scripts run as users run them, and small records and a model that many tests share."""

import fcntl
import importlib
import io
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

import prepare
import run
import train
from age_gender import cli, paths, table_writing, trained_models
from age_gender.errors import InputError, error_line, is_user_error
from age_gender.readers import tables

MODEL = str(paths.FACENET)
OWN_MODEL = paths.MODELS  # the folder where train.py writes by default
KILLS = int(os.environ.get("KILLS", "0"))  # how often each script is killed; 0: a few times
FACES = 900  # every 23rd of UTKFace, so that all ages are there
BATCH_SIZE = "44"  # 17 steps for the 739 or 624 of them that are no test faces
VIEWS = "views.npz"
# A test's process imports TensorFlow before train.py can set the threads of an operation; with
# other threads the same seed gives other weights.
os.environ.setdefault("TF_NUM_INTRAOP_THREADS", "1")
# Tests that a shell started in the background ignore Ctrl-C; what they start must not.
signal.signal(signal.SIGINT, signal.default_int_handler)


class Run(NamedTuple):
    code: int
    out: str
    err: str


def script(name: str, *arguments) -> Run:
    """Run a script's main in this process, and end it as `cli.run` does; seconds faster."""
    module = importlib.import_module(name.removesuffix(".py"))
    with pytest.MonkeyPatch.context() as patch:
        for stream in ("stdout", "stderr"):
            patch.setattr(sys, stream, io.TextIOWrapper(io.BytesIO(), "utf-8", "backslashreplace"))
        patch.setattr(sys, "argv", [name])
        code = 0
        try:
            module.main([*map(str, arguments)])
        except SystemExit as ending:  # argparse's
            code = ending.code
        except Exception as error:
            code = cli.report_error(error)
        sys.stdout.flush()
        sys.stderr.flush()
        out, err = (stream.buffer.getvalue().decode() for stream in (sys.stdout, sys.stderr))
    return Run(code, out, err)


def program(name: str, *arguments, **options) -> Run:
    """Run a script in a process of its own, as a user does."""
    command = [sys.executable, str(paths.ROOT / name), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, timeout=200, **options)
    return Run(done.returncode, done.stdout.decode(), done.stderr.decode())


def start(name: str, *arguments, **options) -> subprocess.Popen:
    """Start a script; what it says goes to a pipe."""
    return subprocess.Popen(
        [sys.executable, str(paths.ROOT / name), *map(str, arguments)],
        **{"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, **options},
    )


def kill_at_random(name: str, *arguments, within: float) -> bool:
    """SIGKILL the script after at most `within` seconds; returns whether it was still running."""
    process = start(name, *arguments, stderr=subprocess.DEVNULL)
    time.sleep(random.uniform(0, within))
    process.kill()
    return process.wait() == -signal.SIGKILL


def wait_until(happened: Callable[[], bool], seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < end
        time.sleep(0.01)


def refused(run: Run, *words: str) -> None:
    """Exit code 2 and one line that holds all the words."""
    assert run.code == 2, run
    lines = [line for line in run.err.splitlines() if not line.startswith("model: ")]
    assert len(lines) == 1 and "Traceback" not in run.err, run.err
    for word in words:
        assert word in lines[0], lines[0]


def visible(folder: Path) -> list[str]:
    """Return the names in a folder, but for hidden files, which a kill may leave half-written."""
    return sorted(name for name in os.listdir(folder) if not name.startswith("."))


def line(values, name: str | None = None) -> str:
    return ",".join([*([name] if name else []), *map("%.9g".__mod__, values)])


HEADER = line([], "filename") + "," + ",".join(f"e{i}" for i in range(512))


def with_cell(row: str, cell: str) -> str:
    """The row with another eighth cell, which is the seventh number."""
    cells = row.split(",")
    return ",".join([*cells[:7], cell, *cells[8:]])


def refusal(path, *more: str) -> str:
    """What run.py says about this input. Nothing may be left of its output."""
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder, "out.csv")
        with pytest.raises((InputError, OSError)) as caught:
            run.main(["--features", str(path), "--output", str(output), "--model", MODEL, *more])
        assert is_user_error(caught.value)
        assert os.listdir(folder) == []
    said = error_line(caught.value)
    assert "\n" not in said and len(said) <= 500
    return said


@pytest.fixture(scope="session", autouse=True)
def without_own_model():
    """Tests expect the shipped models: one that `make` has trained in models/ is passed over."""
    find_model_widths = trained_models.find_model_widths

    def find_shipped(models: Path) -> dict[Path, int]:
        return {
            path: width for path, width in find_model_widths(models).items() if path != OWN_MODEL
        }

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trained_models, "find_model_widths", find_shipped)
        yield


@pytest.fixture(scope="session")
def faces() -> tuple[list[str], np.ndarray]:
    """Names and features, float32 (900, 512), of UTKFace faces of all ages."""
    names, features = tables.read([paths.EMBEDDINGS])
    step = len(names) // FACES
    return names[::step][:FACES], features[::step][:FACES]


@pytest.fixture(scope="session")
def rows(faces) -> list[str]:
    """Six good rows of CSV with names."""
    return [line(values, f"face{i}.jpg") for i, values in enumerate(faces[1][:6].tolist())]


@pytest.fixture(scope="session")
def table(faces, tmp_path_factory) -> Path:
    """These faces as an NPZ."""
    path = tmp_path_factory.mktemp("features") / "faces.npz"
    table_writing.write(path, faces[0], [faces[1]])
    return path


@pytest.fixture(scope="session")
def many(faces, tmp_path_factory) -> Path:
    """4,500 rows in 22 MB: run.py takes about a second."""
    path = tmp_path_factory.mktemp("many") / "many.csv"
    rows = [",".join(map("%.8f".__mod__, row)) for row in faces[1].tolist()]
    with open(path, "w") as stream:
        for i in range(4500):
            stream.write(f"face {i},{rows[i % len(rows)]}\n")
    return path


@pytest.fixture(scope="session")
def shared_folder(tmp_path_factory) -> Callable[[str, Callable[[Path], None]], Path]:
    """A function that returns a folder which the first process of the tests makes for all."""
    root = tmp_path_factory.getbasetemp()
    root = root.parent if "PYTEST_XDIST_WORKER" in os.environ else root

    def shared(name: str, make: Callable[[Path], None]) -> Path:
        with open(root / f".{name}.lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not (root / name).exists():
                unfinished = Path(tempfile.mkdtemp(dir=root))
                make(unfinished)
                unfinished.rename(root / name)
        return root / name

    return shared


@pytest.fixture(scope="session")
def record_folder(table, shared_folder) -> Path:
    """The records of these faces: 150 for testing, children in separate files."""
    return shared_folder("records", lambda folder: prepare.main(
        ["--features", str(table), "--output", str(folder), "--test-size", "150"]
    ))  # fmt: skip


@pytest.fixture(scope="session")
def model_folder(record_folder, shared_folder) -> Path:
    """What train.py writes after two epochs on these records."""
    return shared_folder("models", lambda folder: train.main(training(record_folder, folder)))


@pytest.fixture(scope="session")
def mobile() -> tuple[list[str], np.ndarray]:
    """Names and MobileFaceNet's embeddings, float32 (900, 192), of the faces of `faces`."""
    names, features = tables.read([paths.DATA / "utkface_mobilefacenet.npz"])
    step = len(names) // FACES
    return names[::step][:FACES], features[::step][:FACES]


@pytest.fixture(scope="session")
def mobile_folder(mobile, shared_folder) -> Path:
    """Their records, 600 faces through other crops, and in model/ what train.py makes of these."""

    def make(folder: Path) -> None:
        table, views = folder / "faces.parquet", paths.DATA / "utkface_mobilefacenet_views.npz"
        table_writing.write(table, mobile[0], [mobile[1]])
        prepare.main(["--features", str(table), "--output", str(folder), "--test-size", "150"])
        with np.load(views) as arrays:
            names, embeddings = arrays["filenames"][::5], arrays["embeddings"][::5]
            np.savez(folder / VIEWS, filenames=names, embeddings=embeddings, crops=arrays["crops"])
        train.main(mobile_training(folder, folder / "model"))

    return shared_folder("mobile", make)


def mobile_training(folder: Path, models: Path) -> list[str]:
    """train.py's arguments for the model of `mobile_folder`: with crops and without children."""
    return training(folder, models, "--children", "none", "--views", str(folder / VIEWS))


def training(records: Path, models: Path, *more: str) -> list[str]:
    """train.py's arguments for a quick training.

    The steps of an epoch are a prime number, so that each is called by itself: TensorFlow's
    tracing of several at once takes longer than such a training.
    """
    return [
        "--train", str(records / "train.tfrecords"), "--models", str(models),
        "--children", str(records / "children.tfrecords"), "--views", "none",
        "--logs", str(models / "logs"), "--epochs", "2", "--batch-size", BATCH_SIZE, *more,
    ]  # fmt: skip


@pytest.fixture(scope="module")
def names(request, faces) -> list[str]:
    """Names of a test module's COUNT faces, each another."""
    return [f"{i}_{name}" for i, name in enumerate(faces[0][: request.module.COUNT])]


@pytest.fixture(scope="module")
def features(request, faces) -> np.ndarray:
    """The embeddings of these faces."""
    return faces[1][: request.module.COUNT]
