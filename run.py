"""Ages and genders from face embeddings: a table of embeddings in, a CSV out.

Scores 512-dimensional FaceNet embeddings with the exported LiteRT model; TensorFlow is not
needed. Writes filename, gender (0 male, 1 female), age, a 90 % interval in whole years and
the probability of female, a row a face, in the order of the input.

examples:
  python run.py --features my.csv
  python run.py --features lfw.npz more/*.csv --output predictions.csv
  zcat big.csv.gz | python run.py --features - > predictions.csv
"""

import contextlib
import functools
import re
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

import numpy as np

import embeddings
import files
from files import InputError

HEADER = "filename,gender,age,age_low,age_high,female_probability"
OUTPUTS = ("age", "age_low", "age_high", "female_probability")
_TO_QUOTE = re.compile(r'[,"\r\n]')


def main(argv: list[str] | None = None) -> None:
    args = parse_arguments(argv)
    model = files.find_model(args.model, files.LITERT_MODEL)
    paths = embeddings.expand(args.features)
    check_output(args.output, paths)
    files.say(f"model: {files.display_path(model)}")
    score = Scorer(model.read_bytes(), str(model))
    with output_stream(args.output) as stream:
        rows, bad = write_predictions(stream, map(score, embeddings.pieces(paths)), args)
    if args.skip_bad_rows and bad:
        files.say(f"scored {rows} rows, skipped {bad}")


def parse_arguments(argv: list[str] | None):
    parser = files.ArgumentParser(__doc__)
    parser.add_argument(
        "--features", nargs="+", required=True, metavar="FILE",
        help="tables of embeddings: CSV, NPZ, NPY or Parquet files, globs, folders, or - for "
        "CSV on standard input",
    )  # fmt: skip
    parser.add_argument(
        "--output", default="-", metavar="FILE",
        help="CSV file to write; - is standard output",
    )  # fmt: skip
    parser.add_argument(
        "--model", metavar="PATH",
        help="a folder that train.py wrote, or its .tflite (default: models/ once train.py has "
        "written there, else models/pretrained/)",
    )  # fmt: skip
    parser.add_argument(
        "--skip-bad-rows", action="store_true",
        help="score the other rows; the bad ones are listed in OUTPUT.errors.csv",
    )  # fmt: skip
    return parser.parse_args(argv)


def check_output(output: str, paths: list[str]) -> None:
    """Raise InputError where the output can't be written or would replace an input."""
    if output == "-":
        return
    files.check_writable(output)
    for path in paths:
        if path != "-" and Path(output).exists() and Path(output).samefile(path):
            raise InputError(f"{output}: the output would overwrite this input; choose another")


@contextlib.contextmanager
def output_stream(output: str) -> Iterator[BinaryIO]:
    """Standard output, or a file that appears whole or not at all."""
    if output == "-":
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
    else:
        with files.whole_file(output) as stream:
            yield stream


class Scorer:
    """Parses a piece of input and scores its rows: (n, 512) to (n, 4), the OUTPUTS.

    Holds the model's bytes, so that it can be sent to another process.
    """

    def __init__(self, model: bytes, name: str) -> None:
        self.model, self.name = model, name

    def __call__(self, piece: embeddings.Piece) -> embeddings.Block:
        """The block of the piece, its features replaced by their scores, float32 (n, 4)."""
        block = embeddings.parse(piece)
        if not len(block.features):
            return replace(block, features=np.empty((0, len(OUTPUTS)), np.float32))
        found = self.runner(features=block.features)
        return replace(block, features=np.stack([found[key] for key in OUTPUTS], axis=1))

    @functools.cached_property
    def runner(self):
        """The model's LiteRT signature. Raises InputError for a file that is not this model."""
        from ai_edge_litert.interpreter import Interpreter

        try:
            with files.quiet_stderr():
                interpreter = Interpreter(model_content=self.model)
                runner = interpreter.get_signature_runner()
                runner(features=np.ones((1, embeddings.DIMENSIONS), np.float32))
            missing = set(OUTPUTS) - set(runner.get_output_details())
            if list(runner.get_input_details()) != ["features"] or missing:
                raise ValueError("other inputs or outputs")
            return runner
        except (ValueError, RuntimeError):
            raise InputError(
                f"{self.name}: not a model that train.py exported for these scripts; train again"
            ) from None


def write_predictions(stream: BinaryIO, scored: Iterator[embeddings.Block], args):
    """Write the rows of all blocks, in order; returns how many rows, and how many were bad."""
    numbering, rows, all_bad = embeddings.Numbering(), 0, []
    stream.write(HEADER.encode() + b"\n")
    for block in scored:
        names, bad = numbering.place(block)
        if bad and not args.skip_bad_rows:
            raise InputError(f"{bad[0]}; correct this row or use --skip-bad-rows")
        stream.write(as_csv(names, block.features))
        rows += len(names)
        all_bad += bad
    return rows, len(all_bad)


def as_csv(names: list[str], scores: np.ndarray) -> bytes:
    """Rows of the output: names quoted where CSV needs it, scores float32 (n, 4)."""
    if _TO_QUOTE.search("".join(names)):
        names = [
            '"' + name.replace('"', '""') + '"' if _TO_QUOTE.search(name) else name
            for name in names
        ]
    years = np.rint(scores[:, :3]).astype(int).tolist()
    lines = [
        f"{name},{probability >= 0.5:d},{age},{low},{high},{probability:.4f}\n"
        for name, (age, low, high), probability in zip(
            names, years, scores[:, 3].tolist(), strict=True
        )
    ]
    return "".join(lines).encode()


if __name__ == "__main__":
    files.run_script(main)
