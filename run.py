"""Ages and genders from face embeddings: a table of embeddings in, a CSV out.

Scores embeddings (FaceNet's, unless the model was trained on others) with the exported LiteRT
model; TensorFlow is not needed. Writes filename, gender (0 male, 1 female), age, a 90 % interval
in whole years and the probability of female, a row a face, in the order of the input.

examples:
  python run.py --features my.csv
  python run.py --features lfw.npz more/*.csv --output predictions.csv
  zcat big.csv.gz | python run.py --features - > predictions.csv
  python run.py --features photos.db --query "select path, embedding from faces"
"""

import os
import sys

if __name__ == "__main__":
    sys.path[:0] = [os.path.dirname(__file__)] * sys.flags.safe_path  # python -P leaves it out
    from age_gender import startup

    startup.begin()
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # NumPy would start them for nothing
# isort: split
import argparse
import contextlib
import csv
import itertools
import time
from collections import deque
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

import numpy as np

from age_gender import cli, files, heads, parallel, paths
from age_gender.cli import InputError
from age_gender.readers import chunks, tables
from age_gender.readers.columns import ReadOptions
from age_gender.scoring import litert, predictions

WINDOW = 1024  # rows of which at least half must be of the model's kind
FEW = 8  # rows of a file that are judged by themselves at its end


def main(argv: list[str] | None = None) -> None:
    args = parse_arguments(argv)
    model = heads.find_model(args.model, heads.LITERT_MODEL)
    inputs = tables.expand(args.features)
    read = [*inputs, *filter(None, [args.names]), *model.parent.glob("age_gender*"), model]
    check_output(args, read)
    cli.say(f"model: {cli.display_path(model)}")
    score = litert.Scorer(model.read_bytes(), str(model))
    options = tables.read_options(args, width=score.load())
    found = tables.cut(inputs, options)
    in_processes = not args.dask and tables.is_long_text(inputs, options)
    if in_processes:
        found = (chunk.without_data() for chunk in found)
    scored = parallel.map_in_order(score, found, args.dask, processes=in_processes)
    try:
        with contextlib.closing(scored), open_output(args.output) as output:
            total = tables.input_bytes(inputs, options)
            with open_errors(args) as errors, cli.Progress(total, "B") as progress:
                writer = Writer(output, errors, progress, args.force)
                writer.write(scored)
            writer.finish()  # the list of bad rows stays, even if no row was good
    except InputError as error:
        raise InputError(f"{error}{other_model(model, inputs, options)}") from None


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = cli.ArgumentParser(__doc__)
    add = parser.add_argument
    add("--features", nargs="+", required=True, metavar="FILE",
        help="tables of embeddings: CSV, JSON, NPZ, NPY, Parquet or SQLite files, globs, folders, "
        "or - for CSV or JSON lines on standard input")  # fmt: skip
    tables.add_options(parser)
    add("--output", default="-", metavar="FILE",
        help="CSV file to write; - is standard output")  # fmt: skip
    add("--model", metavar="PATH",
        help="a folder that train.py wrote, or its .tflite (default: models/ once train.py has "
        "written there, else models/facenet/)")  # fmt: skip
    add("--skip-bad-rows", action="store_true",
        help="score the other rows; the bad ones of out.csv are in out.errors.csv")  # fmt: skip
    add("--force", action="store_true",
        help="score also embeddings that are not of the kind the model was trained on")  # fmt: skip
    add("--dask", metavar="ADDRESS",
        help="score on a Dask cluster: a scheduler's address, or local to start one "
        "here")  # fmt: skip
    return parser.parse_args(argv)


def check_output(args: argparse.Namespace, inputs: list[str | Path]) -> None:
    """Raise InputError where an output can't be written or would replace an input."""
    for output in filter(None, [errors_path(args), args.output]):
        if output != "-":
            files.check_writable(output)
        files.check_overwrites_none(output, inputs)


def errors_path(args) -> Path | None:
    """Where bad rows are listed with --skip-bad-rows; None for standard error."""
    if not args.skip_bad_rows or args.output == "-" or files.is_stream(args.output):
        return None
    return Path(args.output).with_suffix(".errors.csv")


def open_output(output: str) -> contextlib.AbstractContextManager:
    """Standard output, or a file that appears whole or not at all."""
    is_file = output != "-"
    return files.whole_file(output) if is_file else contextlib.nullcontext(sys.stdout.buffer)


def open_errors(args) -> contextlib.AbstractContextManager:
    """Where bad rows are listed: None without --skip-bad-rows, where the first one ends all."""
    if path := errors_path(args):
        return files.whole_file(path, "w", errors="backslashreplace", encoding="utf-8", newline="")
    return contextlib.nullcontext(sys.stderr if args.skip_bad_rows else None)


def other_model(model: Path, inputs: list[str], options: ReadOptions) -> str:
    """A hint at the model that would take a table which this one does not; else nothing."""
    is_pipe = not all(Path(path).is_file() for path in inputs)  # what came through it is gone
    if is_pipe or is_taken(model, inputs, options):
        return ""
    for other in sorted(paths.MODELS.rglob(heads.LITERT_MODEL)):
        if other != model and is_taken(other, inputs, options):
            folder = cli.display_path(other.parent)
            return f" ({folder} takes embeddings like these: --model {folder})"
    return ""


def is_taken(model: Path, inputs: list[str], options: ReadOptions) -> bool:
    """Whether rows at the start of the input are of the width and the kind of a model."""
    with contextlib.suppress(InputError):
        score = litert.Scorer(model.read_bytes(), str(model))
        found = tables.cut(inputs, replace(options, width=score.load()))
        blocks = [score(chunk) for chunk in itertools.islice(found, 2)]
        strange = np.concatenate([block.features[:, -1] > 1 for block in blocks])
        return len(strange) > 0 and strange.mean() < 0.5
    return False


class Writer:
    """Writes scored blocks in input order, and judges whether the input is of the model's kind.

    Where more than half of WINDOW rows, or of a file, are strangers, the input as a whole is
    of another kind; what is not yet judged is not yet written. Single strange rows are scored.
    """

    def __init__(self, output: BinaryIO, errors, progress, force: bool) -> None:
        self.output, self.progress, self.force = output, progress, force
        self.errors = errors and csv.writer(errors, lineterminator="\n")
        self.numbering = chunks.Numbering()
        self.strange: deque[bool] = deque(maxlen=WINDOW)
        self.waiting = [predictions.HEADER]
        self.rows = self.bad = self.strangers = 0
        self.first_stranger = ""

    def write(self, scored: Iterable[chunks.Batch]) -> None:
        """Write all blocks. Raises InputError for what ends the run."""
        if self.errors:
            self.errors.writerow(["file", "row", "line", "reason"])
        started = time.monotonic()
        for block in scored:
            self.add(block)
            rate = self.rows / max(time.monotonic() - started, 1e-3)
            self.progress.update(block.chunk.input_bytes, f"{rate:,.0f} rows/s")
        if self.rows == len(self.strange):  # so few that nothing was judged
            self.judge(block.chunk.path)

    def finish(self) -> None:
        """Write the rest; say what was skipped or strange. InputError if no row was good."""
        if self.bad and not self.rows:
            raise InputError(f"none of the {self.bad} rows is good; correct what the list names")
        self.release()
        self.numbering.say_left_out()
        if self.bad:
            cli.say(f"skipped {self.bad} bad rows, scored {self.rows}")
        if self.strangers:
            cli.say(
                f"warning: {self.strangers} of {self.rows} rows are unlike the embeddings that "
                f"the model was trained on; the first is {cli.printable(self.first_stranger)}"
            )

    def add(self, block: chunks.Batch) -> None:
        names, bad = self.numbering.place(block)
        if bad and not self.errors:
            remedy = bad[0].remedy or "correct this row or use --skip-bad-rows"
            raise InputError(f"{bad[0]}; {remedy}")
        for row in bad:
            self.errors.writerow([row.path, row.row, row.line, row.reason])
        strange = block.features[:, -1] > 1
        if strange.any() and not self.strangers:
            self.first_stranger = f"{block.chunk.path}: {names[strange.argmax()]}"
        self.rows += len(names)
        self.bad += len(bad)
        self.strangers += int(strange.sum())
        for start in range(0, len(strange), WINDOW):
            self.strange.extend(strange[start : start + WINDOW].tolist())
            if len(self.strange) == WINDOW:
                self.judge(block.chunk.path)
        self.waiting.append(predictions.as_csv(names, block.features))
        if block.chunk.last and len(self.strange) >= FEW:
            self.judge(block.chunk.path)
            self.release()
            self.strange.clear()
        elif len(self.strange) == WINDOW:
            self.release()

    def judge(self, path: str) -> None:
        """Raise InputError where the rows last seen are not the model's kind of embedding."""
        count = sum(self.strange)
        if count * 2 > len(self.strange) and not self.force:
            raise InputError(
                f"{path}: {count} of {len(self.strange)} rows are not the kind of embedding that "
                "this model was trained on (expected: under 1 in 1,000); embed with its network "
                "and do not round, or train on your own: python prepare.py --features YOURS && "
                "python train.py; --force scores all the same"
            )

    def release(self) -> None:
        self.output.writelines(self.waiting)
        self.waiting.clear()


if __name__ == "__main__":
    cli.run(main)
