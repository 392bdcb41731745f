"""Measure the table of docs/performance.md, each line a ratio from one run, side by side.

Start-up, throughput and memory of run.py, training against the original recipe, embedding
(see also benchmarks/embedding.py). About eight minutes on two cores.

examples:
  python benchmarks/performance.py
  python benchmarks/performance.py --only start-up throughput
"""

import json
import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
from age_gender import cli, paths, trained_models  # noqa: E402
from age_gender.readers import tables, writing  # noqa: E402
from age_gender.scoring import predictions  # noqa: E402
from benchmarks.large_tables import write_csv, write_table  # noqa: E402

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
import sys, time
sys.path.insert(0, sys.argv[1])
from age_gender import trained_models, paths, records, cli; cli.import_tensorflow()
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
started = time.perf_counter()
model.fit(faces.features, {"age": faces.age, "gender": faces.gender},
          batch_size=20, epochs=10, verbose=0)
print(time.perf_counter() - started)
"""
# The network's own training steps, fed one batch from memory again and again.
STEPS = """
import sys, time
sys.path.insert(0, sys.argv[1])
from age_gender import cli; cli.import_tensorflow()
import keras, numpy, tensorflow as tf, network_conv
network = network_conv.build_network(512)
network.compile(keras.optimizers.AdamW(), {
    "age": network_conv.age_loss, "gender": "sparse_categorical_crossentropy",
}, jit_compile=False)
batch = (tf.random.normal((505, 512)), {
    "age": tf.random.uniform((505,), 10, 90, tf.int64),
    "gender": tf.random.uniform((505,), 0, 2, tf.int64),
})
step = tf.function(lambda: network.train_step(batch))
step()
started = time.perf_counter()
for _ in range(200):
    step()
print((time.perf_counter() - started) / 200)
"""


def main() -> None:
    parser = cli.ArgumentParser(__doc__)
    parts = {"start-up": start_up, "throughput": throughput, "formats": formats, "lists": lists,
             "output": output_text, "training": training, "embedding": embedding}  # fmt: skip
    parser.add_argument("--only", nargs="+", choices=parts, default=list(parts),
                        help="parts of the table to measure")  # fmt: skip
    args = parser.parse_args()
    models = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if "name" in line]
    processor = models[0].split(":")[1].strip() if models else platform.processor()
    print(f"{processor}, {len(os.sched_getaffinity(0))} processors, Python "
          f"{platform.python_version()}, {platform.system()}")  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        for part in args.only:
            parts[part](Path(folder))


def row(what: str, value: str) -> None:
    """Print a row of the table."""
    print(f"| {what} | {value} |", flush=True)


def code(text: str, *arguments) -> list[str]:
    """Return the command that runs Python code with arguments."""
    return [sys.executable, "-c", text, *map(str, arguments)]


def run_py(*arguments) -> list[str]:
    """Return the command that runs run.py."""
    return [sys.executable, str(ROOT / "run.py"), *map(str, arguments)]


def seconds(command: list[str]) -> float:
    """Run a command and return the seconds that it takes."""
    started = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - started


def side_by_side(runs: int, *commands: list[str]) -> list[float]:
    """Return the median seconds of each command, run in turn so that drift hits them alike."""
    times = [[seconds(command) for command in commands] for _ in range(runs)]
    return [statistics.median(column) for column in zip(*times, strict=True)]


def model(name: str) -> Path:
    """Return the path of a file of the model that ships for FaceNet."""
    return trained_models.find_model(paths.FACENET, name)


def start_up(folder: Path) -> None:
    """Measure run.py on few rows against pandas and Keras."""
    one, lfw = write_csv(folder / "one.csv", 1), write_csv(folder / "lfw.csv", 13_233)
    for what, path, runs in (("one row", one, 7), ("13,233 rows", lfw, 5)):
        ours, naive = side_by_side(
            runs,
            run_py("--features", path, "--output", folder / "ours.csv"),
            code(NAIVE, path, model("age_gender.keras"), folder / "naive.csv"),
        )
        row(f"run.py, {what}, against pandas + Keras",
            f"{ours:.2f} s against {naive:.2f} s: {naive / ours:.1f} times faster")  # fmt: skip


def peak_memory(command: list[str], stdin: Path = Path("/dev/null")) -> float:
    """Return the MB of the largest process; of long text run.py has one for each processor."""
    measured = subprocess.run(code(MEMORY, stdin, *command), check=True, capture_output=True)
    return float(measured.stdout)


def throughput(folder: Path) -> None:
    """Measure rows per second and memory of CSV, with the start subtracted."""
    small, large = write_csv(folder / "20k.csv", 20_000), write_csv(folder / "200k.csv", 200_000)
    ours = [run_py("--features", path, "--output", folder / "o.csv") for path in (small, large)]
    parser = [code(PARSER, path) for path in (small, large)]
    a, b, c, d = side_by_side(5, *ours, *parser)
    row("run.py, from 20,000 to 200,000 rows of CSV, against pandas' C parser alone",
        f"{180_000 / (b - a):,.0f} against {180_000 / (d - c):,.0f} rows a second: "
        f"{(d - c) / (b - a):.2f}")  # fmt: skip
    first, second = peak_memory(ours[0]), peak_memory(ours[1])
    row("run.py's peak memory at 200,000 against 20,000 rows",
        f"{second:.0f} MB against {first:.0f} MB: {second / first:.2f}")  # fmt: skip
    streams = run_py("--features", "-", "--output", folder / "o.csv")
    first, second = peak_memory(streams, small), peak_memory(streams, large)
    row("the same from standard input",
        f"{second:.0f} MB against {first:.0f} MB: {second / first:.2f}")  # fmt: skip
    large.unlink()


def formats(folder: Path) -> None:
    """Measure NPY, NPZ and Parquet against LiteRT alone."""
    import numpy as np

    names, features = tables.read([paths.EMBEDDINGS])
    features = np.tile(features, (10, 1))[:200_000]
    names = [f"{i}_{names[i % len(names)]}" for i in range(len(features))]
    np.save(folder / "alone.npy", features)
    for suffix in ("npy", "npz", "parquet"):
        small, large = folder / f"20k.{suffix}", folder / f"200k.{suffix}"
        for path, count in ((small, 20_000), (large, 200_000)):
            if suffix == "npy":
                np.save(path, features[:count])
            else:
                writing.write(path, names[:count], [features[:count]])
        rates = []
        for _ in range(5):
            few, many = side_by_side(
                1, *(run_py("--features", p, "--output", folder / "o.csv") for p in (small, large))
            )
            alone = subprocess.run(
                code(LITERT, folder / "alone.npy", model(trained_models.LITERT_MODEL)),
                check=True,
                capture_output=True,
            )
            rates.append(float(alone.stdout) * 0.9 / (many - few))
        row(f"run.py, from 20,000 to 200,000 rows of {suffix.upper()}, against LiteRT alone",
            f"{statistics.median(rates):.2f}")  # fmt: skip
        few, many = (peak_memory(run_py("--features", p, "--output", folder / "o.csv"))
                     for p in (small, large))  # fmt: skip
        row("its peak memory", f"{many:.0f} MB against {few:.0f} MB: {many / few:.2f}")
        small.unlink()
        large.unlink()


def lists(folder: Path) -> None:
    """Measure what other tools write against CSV, or the fixed-size lists of embed.py, in turn."""
    import numpy as np

    names, features = tables.read([paths.EMBEDDINGS])
    features = np.tile(features, (5, 1))
    names = [f"{i}_{names[i % len(names)]}" for i in range(len(features))]
    file_formats = ("csv", "jsonl", "fixed.parquet", "double.parquet", "db")
    files = {
        file_format: [
            write_table(folder / f"{n}.{file_format}", names[:n], features[:n])
            for n in (10_000, 100_000)
        ]
        for file_format in file_formats
    }
    commands = [run_py("--features", path, "--output", folder / "o.csv")
                for pair in files.values() for path in pair]  # fmt: skip
    times = side_by_side(5, *commands)
    rates = {
        file_format: 90_000 / (times[2 * i + 1] - times[2 * i])
        for i, file_format in enumerate(file_formats)
    }
    size = {
        file_format: large.stat().st_size - small.stat().st_size
        for file_format, (small, large) in files.items()
    }
    bytes_ratio = rates["jsonl"] * size["jsonl"] / (rates["csv"] * size["csv"])
    row("run.py, JSON lines against CSV, bytes a second", f"{bytes_ratio:.2f}")
    ratio = rates["double.parquet"] / rates["fixed.parquet"]
    row(
        "run.py, Parquet lists of doubles against fixed-size lists of float32, rows", f"{ratio:.2f}"
    )
    row("run.py, SQLite BLOBs, rows a second", f"{rates['db']:,.0f}")
    for file_format in ("jsonl", "double.parquet", "db"):
        few, many = (peak_memory(run_py("--features", path, "--output", folder / "o.csv"))
                     for path in files[file_format])  # fmt: skip
        row(
            f"its peak memory, {file_format}",
            f"{many:.0f} MB against {few:.0f} MB: {many / few:.2f}",
        )


def output_text(folder: Path) -> None:
    """Measure the text of run.py's output alone."""
    import numpy as np

    scores = np.random.default_rng(0).uniform(10, 90, (1024, 5)).astype(np.float32) / 100
    names = [f"{i}_0_0_20170112213500903.jpg" for i in range(1024)]
    started = time.perf_counter()
    for _ in range(200):
        predictions.as_csv(names, scores)
    row("run.py's output as text alone, rows a second",
        f"{200 * 1024 / (time.perf_counter() - started):,.0f}")  # fmt: skip


def training(folder: Path) -> None:
    """Measure train.py against the original recipe, and its steps against the network alone."""
    if not paths.TRAIN_RECORDS.exists():
        subprocess.run([sys.executable, str(ROOT / "prepare.py")], check=True, capture_output=True)
    command = [sys.executable, str(ROOT / "train.py"), "--models", str(folder / "m"),
               "--logs", str(folder / "l")]  # fmt: skip
    started = time.perf_counter()
    said = subprocess.run(command, check=True, capture_output=True, text=True).stderr
    total = time.perf_counter() - started
    epochs = [int(ms) for ms in re.findall(r"(\d+)ms/step", said.partition("\nfinal: ")[2])]
    rate = 1000 / statistics.mean(epochs[1:])
    fit = json.loads((folder / "m" / trained_models.DESCRIPTION).read_text())["fit"]
    original = float(subprocess.run(code(ORIGINAL, ROOT), check=True, capture_output=True).stdout)
    step = float(subprocess.run(code(STEPS, ROOT), check=True, capture_output=True).stdout)
    row("train.py, the whole command", f"{total:.0f} s")
    ours = fit["seconds"]
    row(
        "train.py, both fits (the one that validates, the one that is kept), against the "
        "original recipe's",
        f"{ours:.1f} s against {original:.1f} s: {ours / original:.2f}",
    )
    row("train.py, steps a second after the first epoch, against the network alone from memory",
        f"{rate:.0f} against {1 / step:.0f}: {rate * step:.2f}")  # fmt: skip


def embedding(folder: Path) -> None:
    """Print the ratios of benchmarks/embedding.py."""
    ratios = folder / "ratios.json"
    command = [sys.executable, str(ROOT / "benchmarks" / "embedding.py"), "--rounds", "5"]
    subprocess.run([*command, "--json", str(ratios)], check=True, capture_output=True)
    for what, value in json.loads(ratios.read_text()).items():
        row(f"embed.py, {what}", f"{value:.2f}")


if __name__ == "__main__":
    main()
