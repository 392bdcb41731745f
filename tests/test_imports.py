"""Importing a module or a script changes nothing of the process that imports it."""

import os
import pstats
import signal
import subprocess
import sys

import pytest
from conftest import MODEL, start

from age_gender import paths

MODULES = sorted(
    ".".join(path.relative_to(paths.ROOT).with_suffix("").parts).removesuffix(".__init__")
    for path in [*paths.ROOT.glob("*.py"), *(paths.ROOT / "age_gender").rglob("*.py")]
)
WITH_TENSORFLOW = [
    "age_gender.training.calibration", "age_gender.training.records", "network_conv",
]  # fmt: skip

LOOK = """
import importlib, logging, os, signal, sys, threading, warnings, tempfile, locale, faulthandler

def state():
    streams = {name: getattr(sys, name) for name in ("stdin", "stdout", "stderr")}
    return {
        "hooks": [sys.excepthook, sys.displayhook, sys.unraisablehook, threading.excepthook],
        "streams": streams,
        "methods of streams": {
            name: sorted(vars(stream)) if hasattr(stream, "__dict__") else []
            for name, stream in streams.items()
        },
        "environment": dict(os.environ),
        "switch interval": sys.getswitchinterval(),
        "recursion limit": sys.getrecursionlimit(),
        "signals": {number: signal.getsignal(number) for number in signal.valid_signals()},
        "root logger": [logging.root.level, list(logging.root.handlers),
                        logging.root.manager.disable],
        "warnings": [warnings.showwarning, warnings.formatwarning],
        "path": list(sys.path),
        "folder": os.getcwd(),
        "locale": locale.setlocale(locale.LC_ALL),
        "umask": (os.umask(0o22), os.umask(0o22))[1],
        "threads": [] if sys.argv[1] == "ignore threads" else threading.enumerate(),
    }
"""

COMPARE = """
other_peoples, modules = sys.argv[2].split(), sys.argv[3].split()
for module in other_peoples:  # these may do what they like
    importlib.import_module(module)
for module in modules:
    before, filters = state(), list(warnings.filters)
    importlib.import_module(module)
    after = state()
    for what in before:
        assert before[what] == after[what], (module, what, before[what], after[what])
    assert filters == warnings.filters, (module, "warnings")
"""


@pytest.mark.parametrize(
    "other_peoples, modules",
    [("numpy", [name for name in MODULES if name not in WITH_TENSORFLOW]),
     ("tensorflow keras", WITH_TENSORFLOW)],
)  # fmt: skip
def test_importing_leaves_the_process_as_it_was(other_peoples, modules):
    command = [sys.executable, "-c", LOOK + COMPARE, "", other_peoples, " ".join(modules)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=paths.ROOT)
    assert done.returncode == 0, done.stderr


def test_an_error_in_a_program_that_imported_a_script_is_an_ordinary_traceback():
    code = """
import run, prepare, age_gender.readers.tables
try: import no_such_module
except ImportError: print("on")
1 / 0
"""
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, cwd=paths.ROOT)
    assert done.stdout == "on\n" and done.returncode == 1
    assert done.stderr.startswith("Traceback") and "ZeroDivisionError" in done.stderr


def test_main_returns_to_its_caller_with_the_process_as_it_was(tmp_path, table):
    arguments = ["--features", str(table), "--output", str(tmp_path / "out.csv"), "--model", MODEL]
    code = LOOK + f"import run\nbefore = state()\nrun.main({arguments!r})\nafter = state()\n"
    code += "for what in before:\n    assert before[what] == after[what], what"
    command = [sys.executable, "-c", code, "ignore threads"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=paths.ROOT)
    assert done.returncode == 0, done.stderr


def test_a_profile_of_a_script_is_written(tmp_path, table):
    profile, output = tmp_path / "profile", tmp_path / "out.csv"
    command = [sys.executable, "-m", "cProfile", "-o", profile, paths.ROOT / "run.py"]
    command += ["--features", table, "--output", output, "--model", MODEL]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert len(output.read_text().splitlines()) == 901
    functions = {name for _, _, name in pstats.Stats(str(profile)).stats}
    assert {"parse_arguments", "to_csv"} <= functions


@pytest.mark.parametrize("flags", [["-P"], ["-I", "-OO"]])
def test_scripts_run_under_every_flag_of_python(tmp_path, rows, flags):
    path = tmp_path / "my.csv"
    path.write_text("\n".join(rows))
    command = [sys.executable, *flags, paths.ROOT / "run.py", "--features", path, "--model", MODEL]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0 and len(done.stdout.splitlines()) == 7, done.stderr
    for name in ("prepare", "train", "test", "embed"):
        command = [sys.executable, *flags, paths.ROOT / f"{name}.py", "--help"]
        done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
        assert done.returncode == 0 and done.stdout.startswith("usage"), done.stderr


@pytest.mark.parametrize("name", ["run.py", "prepare.py", "train.py", "test.py", "embed.py"])
def test_interrupted_while_it_imports_a_script_says_so_in_one_line(tmp_path, name):
    (tmp_path / "numpy.py").write_text(
        "import time\nprint('importing', flush=True)\ntime.sleep(60)"
    )
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    process = start(name, stdout=subprocess.PIPE, env=environment)
    assert process.stdout.readline() == b"importing\n"
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=30) == 130
    assert process.stderr.read().decode() == f"{name}: interrupted\n"
