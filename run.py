"""Estimate ages and genders from face embeddings: a table in, a CSV out.

Scores embeddings with the exported LiteRT model for the network that made them, which it finds
by itself; TensorFlow is not needed. Writes filename, gender (0 male, 1 female), age, a 90 %
interval in whole years and the probability of female, one row per face, in the order of the input.

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

    startup.begin()  # errors and Ctrl-C take one line from here on, during the imports too
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # NumPy would start them for nothing
# isort: split
import argparse
import contextlib
import csv
import functools
import itertools
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import BinaryIO, TextIO

import numpy as np

from age_gender import cli, files, parallel, paths, rounding, trained_models
from age_gender.cli import InputError
from age_gender.readers import chunks, tables
from age_gender.scoring import choice, litert, predictions

FORCE_HINT = ", or use --force to score them all the same"  # ends messages on whole tables
MAX_BAD_CHUNKS = 64  # chunks at the start of the input without a good row, then it is given up


def main(argv: list[str] | None = None) -> None:
    args = parse_arguments(argv)
    # Check the paths
    inputs = tables.expand(args.features)
    models = {} if args.model else trained_models.find_models(paths.MODELS)
    check_outputs(args, inputs, models)

    # Choose the model by the first rows
    scorer, first_batches, unparsed = open_input(args, inputs, models)
    if args.model or len(first_batches[-1].features):  # else an error follows
        cli.say(f"model: {cli.display_path(Path(scorer.name))}")

    # Score all rows, and write them in order
    scored = score_in_order(args, inputs, scorer, first_batches, unparsed)
    with contextlib.closing(scored), open_output(args.output) as output:
        total = tables.input_bytes(inputs, tables.read_options(args))
        with open_errors(args) as errors, cli.Progress(total, "B") as progress:
            writer = Writer(output, errors, progress, args.force)
            writer.write(scored)
        writer.finish()  # the list of bad rows stays, even if no row was good


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = cli.ArgumentParser(__doc__)
    # fmt: off
    add = parser.add_argument
    add("--features", nargs="+", required=True, metavar="FILE",
        help="tables of embeddings: CSV, JSON, NPZ, NPY, Parquet or SQLite files, globs, folders, "
        "or - for CSV or JSON lines on standard input")
    tables.add_options(parser)
    add("--output", default="-", metavar="FILE", help="CSV file to write; - is standard output")
    add("--model", metavar="PATH",
        help="a folder that train.py wrote, or its .tflite (default: the one in models/ for the "
        "network that made the embeddings)")
    add("--skip-bad-rows", action="store_true",
        help="skip bad rows and list them in OUTPUT.errors.csv (without --output on standard "
        "error)")
    add("--force", action="store_true",
        help="score out-of-distribution or rounded embeddings too")
    add("--dask", metavar="ADDRESS",
        help="score on a Dask cluster: a scheduler's address, or local to start one here")
    # fmt: on
    return parser.parse_args(argv)


def check_outputs(args: argparse.Namespace, inputs: list[str], models: Mapping[Path, int]) -> None:
    """Raise InputError where an output can't be written, or would replace an input or a model."""
    folders = [Path(args.model), Path(args.model).parent] if args.model else models
    model_files = (path for folder in folders for path in folder.glob("age_gender*"))
    protected = [*inputs, *filter(None, [args.names]), *model_files]
    for output in filter(None, [find_errors_path(args), args.output]):
        if output != "-":
            files.check_writable(output)
        files.check_overwrites_none(output, protected)


def find_errors_path(args: argparse.Namespace) -> Path | None:
    """Return the path of the list of bad rows, or None for standard error."""
    if not args.skip_bad_rows or args.output == "-" or files.is_stream(args.output):
        return None
    return Path(args.output).with_suffix(".errors.csv")


def open_input(
    args: argparse.Namespace, inputs: list[str], models: Mapping[Path, int]
) -> tuple[litert.Scorer, list[chunks.Batch], Iterator[chunks.Chunk]]:
    """Return the scorer for the input, the batches parsed to choose it, and the other chunks."""
    if args.model:
        scorer = choice.load(args.model, args.force)
        options = tables.read_options(args, width=scorer.width)
        return scorer, [], tables.cut(inputs, options)
    widths, described = tuple(models.values()), choice.describe_models(models)
    unparsed = tables.cut(inputs, tables.read_options(args, widths=widths, models_text=described))
    first_batches = parse_first_batches(unparsed, args.skip_bad_rows)
    scorer = choice.choose_model(
        models,
        first_batches[-1].features,
        must_fit=not (args.force or args.skip_bad_rows),
        load_scorer=functools.partial(choice.load, force=args.force),
        hint=FORCE_HINT,
    )
    return scorer, first_batches, unparsed


def parse_first_batches(
    unparsed: Iterator[chunks.Chunk], skip_bad_rows: bool
) -> list[chunks.Batch]:
    """Return the first batches, up to one with a good row, or whose bad row ends the run.

    Raises InputError where no row of MAX_BAD_CHUNKS is good.
    """
    batches: list[chunks.Batch] = []
    for batch in map(tables.parse, itertools.islice(unparsed, MAX_BAD_CHUNKS)):
        batches.append(batch)
        if len(batch.features) or (batch.bad and not skip_bad_rows):
            return batches
    bad = [row for batch in batches for row in batch.bad]
    if bad and len(batches) == MAX_BAD_CHUNKS:
        raise InputError(
            f"{bad[0].path}: no row of the first {MAX_BAD_CHUNKS} chunks is good; {bad[0]}"
        )
    return batches


def score_in_order(
    args: argparse.Namespace,
    inputs: list[str],
    scorer: litert.Scorer,
    first_batches: list[chunks.Batch],
    unparsed: Iterator[chunks.Chunk],
) -> Iterator[chunks.Batch]:
    """Yield all batches in input order, with scores, from all processors or a Dask cluster."""
    in_processes = not args.dask and tables.is_long_text(inputs, tables.read_options(args))
    if in_processes:
        unparsed = (chunk.without_data() for chunk in unparsed)
    items = itertools.chain(first_batches, unparsed)
    return parallel.map_in_order(scorer, items, args.dask, processes=in_processes)


def open_output(output: str) -> contextlib.AbstractContextManager:
    """Open the output: standard output, or a file that appears whole or not at all."""
    is_file = output != "-"
    return files.atomic_file(output) if is_file else contextlib.nullcontext(sys.stdout.buffer)


def open_errors(args: argparse.Namespace) -> contextlib.AbstractContextManager:
    """Open the list of bad rows; None without --skip-bad-rows, where the first one ends the run."""
    if path := find_errors_path(args):
        return files.atomic_file(path, "w", errors="backslashreplace", encoding="utf-8", newline="")
    return contextlib.nullcontext(sys.stderr if args.skip_bad_rows else None)


class Writer:
    """Write scored batches in input order, once their file is checked for rounding."""

    def __init__(
        self, output: BinaryIO, errors: TextIO | None, progress: cli.Progress, force: bool
    ) -> None:
        self.output, self.progress, self.force = output, progress, force
        self.errors = errors and csv.writer(errors, lineterminator="\n")
        self.numbering = chunks.Numbering()
        self.rows = self.bad = 0
        self.pending_output = [predictions.HEADER]  # until the file of the rows is checked
        self.rounding_years: list[np.ndarray] = []  # of this file, until it is checked
        self.is_checked = self.has_warned = False

    def write(self, scored: Iterable[chunks.Batch]) -> None:
        """Write all batches. Raises InputError for what ends the run."""
        if self.errors:
            self.errors.writerow(["file", "row", "line", "reason"])
        started = time.monotonic()
        for batch in scored:
            self.add(batch)
            rate = self.rows / max(time.monotonic() - started, 1e-3)
            self.progress.update(batch.chunk.input_bytes, f"{rate:,.0f} rows/s")

    def finish(self) -> None:
        """Write the rest; say what was skipped. Raises InputError where no row was good."""
        if self.bad and not self.rows:
            which = f"all {self.bad} are bad" if self.bad > 1 else "the only one is bad"
            raise InputError(f"no row can be scored: {which}; see the list of bad rows")
        self.output.writelines(self.pending_output)
        self.numbering.say_unread_columns()
        if self.bad:
            cli.say(f"skipped {cli.counted(self.bad, 'bad row')}, scored {self.rows:,}")

    def add(self, batch: chunks.Batch) -> None:
        """Write a batch, or keep it until its file is checked. Raises InputError for a bad row."""
        names, bad = self.numbering.locate(batch)
        if bad and not self.errors:
            remedy = bad[0].remedy or "correct this row or use --skip-bad-rows"
            raise InputError(f"{bad[0]}; {remedy}")
        for row in bad:
            self.errors.writerow([row.path, row.row, row.line, row.reason])
        self.rows += len(names)
        self.bad += len(bad)
        self.pending_output.append(predictions.to_csv(names, batch.scores))
        if not self.is_checked:
            self.rounding_years.append(batch.scores[:, litert.ROUNDING])
            if batch.chunk.last or sum(map(len, self.rounding_years)) >= rounding.CHECKED_ROWS:
                self.check_rounding(batch.chunk.path)
        if self.is_checked and self.rows:
            self.output.writelines(self.pending_output)
            self.pending_output.clear()
        self.is_checked = self.is_checked and not batch.chunk.last  # the next file is not

    def check_rounding(self, path: str) -> None:
        """Warn once if a file seems rounded. Raises InputError if it is rounded too coarsely."""
        years = np.concatenate(self.rounding_years)
        warning = rounding.check(path, years, self.force, FORCE_HINT)
        if warning and not self.has_warned:
            self.progress.say(f"warning: {warning}")
            self.has_warned = True
        self.rounding_years, self.is_checked = [], True


if __name__ == "__main__":
    cli.run(main)
