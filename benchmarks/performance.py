"""Measure the table of docs/performance.md, each line a ratio from one run, side by side.

Start-up, throughput and memory of run.py, training against the original recipe, embedding
(see also benchmarks/embedding.py). About eight minutes on two cores.

examples:
  python benchmarks/performance.py
  python benchmarks/performance.py --only start-up throughput
"""

import itertools
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
from age_gender import cli, paths, trained_models  # noqa: E402
from age_gender.processes import parallel  # noqa: E402
from age_gender.scoring import predictions  # noqa: E402
from benchmarks.large_tables import write_faces  # noqa: E402

# What one would write instead of run.py.
NAIVE = """
import sys, pandas, keras, numpy
table = pandas.read_csv(sys.argv[1], header=None)
model = keras.models.load_model(sys.argv[2], compile=False)
predicted = model.predict(table.iloc[:, 1:].to_numpy("float32"), batch_size=1024, verbose=0)
pandas.DataFrame({
    "filename": table[0],
    "gender": predicted["gender"].argmax(axis=1),
    "age": numpy.rint(predicted["age"] @ numpy.arange(117)).astype(int),
}).to_csv(sys.argv[3], index=False)
"""
# pandas' C parser alone, as float32, in blocks of 20,000: faster than in smaller ones or whole.
PARSER = """
import sys, pandas, numpy
types = {i: numpy.float32 for i in range(1, 513)} | {0: object}
for part in pandas.read_csv(sys.argv[1], header=None, dtype=types, chunksize=20000):
    pass
"""
# LiteRT alone, from memory, with as many threads of its own as there are processors.
LITERT = """
import sys, time, os, numpy
from ai_edge_litert.interpreter import Interpreter
features = numpy.load(sys.argv[1])
interpreter = Interpreter(sys.argv[2], num_threads=len(os.sched_getaffinity(0)))
runner = interpreter.get_signature_runner()
runner(features=features[:1024])
started = time.perf_counter()
for i in range(0, len(features), 1024):
    runner(features=features[i:i + 1024])
print(time.perf_counter() - started)
"""
# A small process between: on Linux the peak begins with that of the process that starts another.
MEMORY = """
import resource, subprocess, sys
subprocess.run(sys.argv[2:], stdin=open(sys.argv[1]), check=True, capture_output=True)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024)
"""
# The original experiment's recipe: its layers, Adam, 10 epochs of batches of 20, plain fit.
ORIGINAL = """
import sys
sys.path.insert(0, sys.argv[1])
from age_gender import paths
from age_gender.training import records
import keras
from keras import layers
faces = records.read(paths.TRAIN_RECORDS)
inputs = keras.Input((512,))
hidden = layers.Dense(768, activation="relu")(inputs)
hidden = layers.Dense(768, activation="relu")(hidden)
model = keras.Model(inputs, {
    "age": layers.Dense(117, activation="softmax")(hidden),
    "gender": layers.Dense(2, activation="softmax")(hidden),
})
model.compile("adam", {
    "age": "sparse_categorical_crossentropy", "gender": "sparse_categorical_crossentropy",
})
model.fit(faces.features, {"age": faces.age, "gender": faces.gender},
          batch_size=20, epochs=10, verbose=0)
"""


def main() -> None:
    parts = {
        "start-up": measure_start_up,
        "throughput": measure_csv,
        "formats": measure_arrays,
        "lists": measure_lists,
        "output": measure_output,
        "training": measure_training,
        "embedding": measure_embedding,
    }
    parser = cli.ArgumentParser(__doc__)
    parser.add_argument(
        "--only", nargs="+", choices=parts, default=list(parts), help="parts of the table"
    )
    args = parser.parse_args()
    models = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if "name" in line]
    processor = models[0].split(":")[1].strip() if models else platform.processor()
    python = f"Python {platform.python_version()}, {platform.system()}"
    print(f"{processor}, {parallel.count_processors()} processors, {python}")
    with tempfile.TemporaryDirectory() as folder:
        for part in args.only:
            parts[part](Path(folder))


def print_row(what: str, value: str) -> None:
    """Print a row of the table."""
    print(f"| {what} | {value} |", flush=True)


def python_command(text: str, *arguments) -> list[str]:
    """Return the command that runs Python code with arguments."""
    return [sys.executable, "-c", text, *map(str, arguments)]


def run_py_command(features: Path | str, folder: Path) -> list[str]:
    """Return the command that runs run.py on a table."""
    output = folder / "output.csv"
    return [sys.executable, ROOT / "run.py", "--features", features, "--output", output]


def run_quietly(command: list) -> str:
    """Run a command and return its standard output."""
    command = [*map(str, command)]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def time_command(command: list) -> float:
    """Run a command and return the seconds that it takes."""
    started = time.perf_counter()
    run_quietly(command)
    return time.perf_counter() - started


def time_side_by_side(runs: int, *commands: list) -> list[float]:
    """Return the median seconds of each command, run in turn so that drift hits them alike."""
    times = [[time_command(command) for command in commands] for _ in range(runs)]
    return [statistics.median(column) for column in zip(*times, strict=True)]


def print_memory(what: str, commands: list[list], stdin: Sequence[Path | str] = ()) -> None:
    """Print the MB of the largest process for a small and a large table, and their ratio.

    Of long text run.py has a process for each processor. `stdin` are the two standard inputs.
    """
    inputs = stdin or ("/dev/null", "/dev/null")
    few, many = (
        float(run_quietly(python_command(MEMORY, path, *command)))
        for path, command in zip(inputs, commands, strict=True)
    )
    print_row(what, f"{many:.0f} MB against {few:.0f} MB: {many / few:.2f}")


def find_facenet(name: str) -> Path:
    """Return the path of a file of the model that ships for FaceNet."""
    return trained_models.find_model_file(paths.FACENET, name)


def measure_start_up(folder: Path) -> None:
    """Measure run.py on few rows against pandas and Keras."""
    for what, rows, runs in (("one row", 1, 7), ("13,233 rows", 13_233, 5)):
        path = write_faces(folder / f"{rows}.csv", rows)
        naive = python_command(
            NAIVE, path, find_facenet(trained_models.KERAS_MODEL), folder / "naive.csv"
        )
        ours, theirs = time_side_by_side(runs, run_py_command(path, folder), naive)
        print_row(
            f"run.py, {what}, against pandas + Keras",
            f"{ours:.2f} s against {theirs:.2f} s: {theirs / ours:.1f} times faster",
        )


def measure_csv(folder: Path) -> None:
    """Measure rows per second and memory of CSV, with the start subtracted."""
    files = [write_faces(folder / f"{rows}.csv", rows) for rows in (20_000, 200_000)]
    ours = [run_py_command(path, folder) for path in files]
    few, many, parsed_few, parsed_many = time_side_by_side(
        5, *ours, *(python_command(PARSER, path) for path in files)
    )
    rate, parser_rate = 180_000 / (many - few), 180_000 / (parsed_many - parsed_few)
    print_row(
        "run.py, from 20,000 to 200,000 rows of CSV, against pandas' C parser alone",
        f"{rate:,.0f} against {parser_rate:,.0f} rows a second: {rate / parser_rate:.2f}",
    )
    print_memory("run.py's peak memory at 200,000 against 20,000 rows", ours)
    print_memory("the same from standard input", [run_py_command("-", folder)] * 2, files)
    files[1].unlink()


def measure_arrays(folder: Path) -> None:
    """Measure NPY, NPZ and Parquet against LiteRT alone."""
    features = write_faces(folder / "alone.npy", 200_000)
    alone = python_command(LITERT, features, find_facenet(trained_models.LITERT_MODEL))
    for suffix in ("npy", "npz", "parquet"):
        files = [write_faces(folder / f"{rows}.{suffix}", rows) for rows in (20_000, 200_000)]
        ours, ratios = [run_py_command(path, folder) for path in files], []
        for _ in range(5):
            few, many = map(time_command, ours)
            ratios.append(0.9 * float(run_quietly(alone)) / (many - few))
        print_row(
            f"run.py, from 20,000 to 200,000 rows of {suffix.upper()}, against LiteRT alone",
            f"{statistics.median(ratios):.2f}",
        )
        print_memory("its peak memory", ours)
        for path in files:
            path.unlink()


def measure_lists(folder: Path) -> None:
    """Measure what other tools write against CSV, or the fixed-size lists of embed.py, in turn."""
    # Write a small and a large table of each format, and score them
    files = {
        suffix: [write_faces(folder / f"{rows}.{suffix}", rows) for rows in (10_000, 100_000)]
        for suffix in ("csv", "jsonl", "parquet", "double.parquet", "db")
    }
    commands = {
        suffix: [run_py_command(path, folder) for path in pair] for suffix, pair in files.items()
    }
    times = iter(time_side_by_side(5, *itertools.chain.from_iterable(commands.values())))

    # Rows and bytes a second, with the start subtracted
    rates, byte_rates = {}, {}
    for suffix, (small, large) in files.items():
        few, many = next(times), next(times)
        rates[suffix] = 90_000 / (many - few)
        byte_rates[suffix] = (large.stat().st_size - small.stat().st_size) / (many - few)
    in_bytes = byte_rates["jsonl"] / byte_rates["csv"]
    print_row("run.py, JSON lines against CSV, bytes a second", f"{in_bytes:.2f}")
    print_row(
        "run.py, Parquet lists of doubles against fixed-size lists of float32, rows",
        f"{rates['double.parquet'] / rates['parquet']:.2f}",
    )
    print_row("run.py, SQLite BLOBs, rows a second", f"{rates['db']:,.0f}")
    for suffix in ("jsonl", "double.parquet", "db"):
        print_memory(f"its peak memory, {suffix}", commands[suffix])


def measure_output(folder: Path) -> None:
    """Measure the text of run.py's output alone."""
    scores = np.random.default_rng(0).uniform(10, 90, (1024, 5)).astype(np.float32) / 100
    names = [f"{i}_0_0_20170112213500903.jpg" for i in range(1024)]
    started = time.perf_counter()
    for _ in range(200):
        predictions.to_csv(names, scores)
    rate = 200 * 1024 / (time.perf_counter() - started)
    print_row("run.py's output as text alone, rows a second", f"{rate:,.0f}")


def measure_training(folder: Path) -> None:
    """Measure the processor time of train.py against that of the original recipe, in turn."""
    if not paths.TRAIN_RECORDS.exists():
        run_quietly([sys.executable, ROOT / "prepare.py"])
    train = [sys.executable, ROOT / "train.py", "--models", folder / "m", "--logs", folder / "l"]
    commands = (train, python_command(ORIGINAL, ROOT))
    runs = [[measure_processor_seconds(command) for command in commands] for _ in range(3)]
    ours, original = (statistics.median(seconds) for seconds in zip(*runs, strict=True))
    print_row(
        "train.py, the whole command, against a script of the original recipe",
        f"{ours:.0f} s of processor time against {original:.0f} s: {ours / original:.2f}",
    )


def measure_processor_seconds(command: list) -> float:
    """Run a command and return the seconds of processor time that it takes."""
    before = os.times()
    run_quietly(command)
    after = os.times()
    return sum(after[2:4]) - sum(before[2:4])  # the children's


def measure_embedding(folder: Path) -> None:
    """Print the ratios of benchmarks/embedding.py."""
    ratios = folder / "ratios.json"
    script = ROOT / "benchmarks" / "embedding.py"
    run_quietly([sys.executable, script, "--rounds", "5", "--json", ratios])
    for what, value in json.loads(ratios.read_text()).items():
        print_row(f"embed.py, {what}", f"{value:.2f}")


if __name__ == "__main__":
    main()
