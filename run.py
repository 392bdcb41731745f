"""Estimate ages and genders from face embeddings: a table in, a CSV out.

Finds the model for the network that made the embeddings, and scores them with it in LiteRT;
TensorFlow is not needed. Writes filename, gender (0 male, 1 female), age, a 90 %
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
    sys.path.append(os.path.dirname(__file__))  # python -P leaves it out
    from age_gender.processes import startup

    startup.begin()  # errors and Ctrl-C take one line from here on, during the imports too
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # NumPy would start threads for nothing
# isort: split
import argparse
import contextlib
import csv
import functools
import itertools
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import BinaryIO, NamedTuple, TextIO

import numpy as np

from age_gender import cli, files, paths, rounding, trained_models
from age_gender.errors import InputError
from age_gender.processes import parallel
from age_gender.readers import chunks, tables
from age_gender.scoring import model_choice, predictions
from age_gender.scoring.scorer import ROUNDING, Scorer

# Ends the messages that refuse a whole table
FORCE_HINT = ", or use --force to score them all the same"
MAX_FIRST_BAD_CHUNKS = 64  # the run ends if this many chunks at the start have no good row


class OpenedInput(NamedTuple):
    """Hold the scorer for the input, the batches parsed to choose it, and the remaining chunks."""

    scorer: Scorer
    parsed_batches: list[chunks.Batch]
    unparsed_chunks: Iterator[chunks.Chunk]


def main(argv: list[str] | None = None) -> None:
    args = parse_arguments(argv)
    inputs = tables.list_files(args.features)
    model_widths = {} if args.model else trained_models.find_model_widths(paths.MODELS)
    check_outputs(args, inputs, model_widths)
    scored = score_in_order(args, inputs, open_input(args, inputs, model_widths))
    with contextlib.closing(scored), open_output(args.output) as output:
        total = tables.estimate_input_bytes(inputs, tables.make_read_options(args))
        with open_bad_rows_file(args) as bad_rows_file, cli.Progress(total, "B") as progress:
            writer = PredictionWriter(output, bad_rows_file, progress, args.force)
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
        help="skip bad rows and list them beside the output (ages.csv: ages.errors.csv), or on "
        "standard error without --output")
    add("--force", action="store_true",
        help="also score embeddings that look like another network's, or coarsely rounded")
    add("--dask", metavar="ADDRESS",
        help="score on a Dask cluster: a scheduler's address, or local to start one here")
    # fmt: on
    return parser.parse_args(argv)


def check_outputs(args: argparse.Namespace, inputs: list[str], models: Iterable[Path]) -> None:
    """Raise InputError where an output can't be written, or would replace an input or a model."""
    folders = [Path(args.model), Path(args.model).parent] if args.model else models
    model_files = (path for folder in folders for path in folder.glob("age_gender*"))
    protected = [*inputs, *filter(None, [args.names]), *model_files]
    for output in filter(None, [find_bad_rows_path(args), args.output]):
        if output != "-":
            files.check_writable(output)
        files.refuse_overwriting(output, protected)


def find_bad_rows_path(args: argparse.Namespace) -> Path | None:
    """Return the path of the list of bad rows, or None for standard error."""
    if not args.skip_bad_rows or args.output == "-" or files.is_stream(args.output):
        return None
    return Path(args.output).with_suffix(".errors.csv")


def open_input(
    args: argparse.Namespace, inputs: list[str], model_widths: Mapping[Path, int]
) -> OpenedInput:
    """Return the input with the scorer of --model, or of the model that its first rows fit."""
    if args.model:
        scorer, parsed_batches = model_choice.load(args.model, args.force), []
        unparsed_chunks = tables.read_chunks(
            inputs, tables.make_read_options(args, width=scorer.width)
        )
    else:
        options = tables.make_read_options(
            args,
            widths=tuple(model_widths.values()),
            models_description=model_choice.describe_models(model_widths),
        )
        unparsed_chunks = tables.read_chunks(inputs, options)
        parsed_batches = parse_first_batches(unparsed_chunks, args.skip_bad_rows)
        scorer = model_choice.choose_model(
            model_widths,
            parsed_batches[-1].features,
            must_fit=not (args.force or args.skip_bad_rows),
            load_scorer=functools.partial(model_choice.load, force=args.force),
            hint=FORCE_HINT,
        )
    if args.model or len(parsed_batches[-1].features):  # else no row was good, and `finish` says so
        cli.say(f"model: {cli.display_path(Path(scorer.path))}")
    return OpenedInput(scorer, parsed_batches, unparsed_chunks)


def parse_first_batches(
    unparsed_chunks: Iterator[chunks.Chunk], skip_bad_rows: bool
) -> list[chunks.Batch]:
    """Parse batches until one has a good row, or a bad row that ends the run, and return them.

    Raises InputError where MAX_FIRST_BAD_CHUNKS have no good row.
    """
    batches: list[chunks.Batch] = []
    for batch in map(tables.parse, itertools.islice(unparsed_chunks, MAX_FIRST_BAD_CHUNKS)):
        batches.append(batch)
        if len(batch.features) or (batch.bad_rows and not skip_bad_rows):
            return batches
    bad_rows = [row for batch in batches for row in batch.bad_rows]
    if bad_rows and len(batches) == MAX_FIRST_BAD_CHUNKS:
        count = sum(batch.row_count for batch in batches)
        raise InputError(f"{bad_rows[0].path}: the first {count:,} rows are all bad; {bad_rows[0]}")
    return batches


def score_in_order(
    args: argparse.Namespace, inputs: list[str], opened: OpenedInput
) -> Iterator[chunks.Batch]:
    """Yield all batches in input order, with scores, from all processors or a Dask cluster."""
    in_processes = not args.dask and tables.is_long_text(inputs, tables.make_read_options(args))
    unparsed_chunks = opened.unparsed_chunks
    if in_processes:
        unparsed_chunks = (chunk.without_data() for chunk in unparsed_chunks)
    items = itertools.chain(opened.parsed_batches, unparsed_chunks)
    return parallel.map_in_order(opened.scorer, items, args.dask, processes=in_processes)


def open_output(output: str) -> contextlib.AbstractContextManager:
    """Open the output: standard output, or a file that appears complete or not at all."""
    is_file = output != "-"
    return files.atomic_file(output) if is_file else contextlib.nullcontext(sys.stdout.buffer)


def open_bad_rows_file(args: argparse.Namespace) -> contextlib.AbstractContextManager:
    """Open the list of bad rows; None without --skip-bad-rows: the first bad row ends the run."""
    if path := find_bad_rows_path(args):
        return files.atomic_file(path, "w", errors="backslashreplace", encoding="utf-8", newline="")
    return contextlib.nullcontext(sys.stderr if args.skip_bad_rows else None)


class RoundingCheck:
    """Warn of rounded embeddings, or refuse them, by the first rows of each file; warn once."""

    def __init__(self, progress: cli.Progress, force: bool) -> None:
        self.progress, self.force, self.has_warned = progress, force, False
        self.years: list[np.ndarray] | None = []  # of the current file; None once checked

    def add(self, batch: chunks.Batch) -> bool:
        """Add a scored batch; return whether its file has been checked.

        Raises InputError where the file is rounded too coarsely.
        """
        if self.years is not None:
            self.years.append(batch.scores[:, ROUNDING])
            if batch.chunk.is_last or sum(map(len, self.years)) >= rounding.CHECKED_ROWS:
                years = np.concatenate(self.years)
                warning = rounding.check(batch.chunk.path, years, self.force, FORCE_HINT)
                if warning and not self.has_warned:
                    self.progress.say(f"warning: {warning}")
                    self.has_warned = True
                self.years = None
        is_checked = self.years is None
        if batch.chunk.is_last:
            self.years = []  # for the next file
        return is_checked


class PredictionWriter:
    """Write scored batches in input order, each once its file is checked for rounding."""

    def __init__(
        self,
        output: BinaryIO,
        bad_rows_file: TextIO | None,
        progress: cli.Progress,
        force: bool,
    ) -> None:
        self.output, self.progress = output, progress
        self.rounding_check = RoundingCheck(progress, force)
        self.bad_rows_writer = bad_rows_file and csv.writer(bad_rows_file, lineterminator="\n")
        self.numbering = chunks.RowNumbering()
        self.row_count = self.bad_row_count = 0
        self.pending_output = [predictions.HEADER]  # until the file of the rows is checked

    def write(self, scored: Iterable[chunks.Batch]) -> None:
        """Write all batches. Raises InputError for what ends the run."""
        if self.bad_rows_writer:
            self.bad_rows_writer.writerow(["file", "row", "line", "reason"])
        started = time.monotonic()
        for batch in scored:
            self.add(batch)
            rate = self.row_count / max(time.monotonic() - started, 1e-3)
            self.progress.update(batch.chunk.input_bytes, f"{rate:,.0f} rows/s")

    def finish(self) -> None:
        """Write the remaining rows; say what was skipped. Raises InputError if no row was good."""
        if self.bad_row_count and not self.row_count:
            count = self.bad_row_count
            which = f"all {count} are bad" if count > 1 else "the only one is bad"
            raise InputError(f"no row can be scored: {which}; see the list of bad rows")
        self.output.writelines(self.pending_output)
        self.numbering.say_unread_columns()
        if self.bad_row_count:
            skipped = cli.counted(self.bad_row_count, "bad row")
            cli.say(f"skipped {skipped}, scored {self.row_count:,}")

    def add(self, batch: chunks.Batch) -> None:
        """Write a batch, or keep it until its file is checked. Raises InputError for a bad row."""
        names, bad_rows = self.numbering.number(batch)
        if bad_rows and not self.bad_rows_writer:
            remedy = bad_rows[0].remedy or "correct this row or use --skip-bad-rows"
            raise InputError(f"{bad_rows[0]}; {remedy}")
        for row in bad_rows:
            self.bad_rows_writer.writerow([row.path, row.row, row.line, row.reason])
        self.row_count += len(names)
        self.bad_row_count += len(bad_rows)
        self.pending_output.append(predictions.to_csv(names, batch.scores))
        if self.rounding_check.add(batch) and self.row_count:
            self.output.writelines(self.pending_output)
            self.pending_output.clear()


if __name__ == "__main__":
    cli.run(main)
