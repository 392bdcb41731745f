"""Small tables with labels, and what prepare.py makes of them."""

import json
import tempfile
from pathlib import Path

import numpy as np
import pytest

import prepare
from age_gender.errors import InputError
from age_gender.training import records

WIDTH = 16  # width of embeddings that no model here takes


def prepared(table, folder, *more: str, test_size: int = 150) -> dict[str, records.Records]:
    """The records that prepare.py makes of a table, by their file's name."""
    prepare.main(["--features", str(table), "--output", str(folder),
                  "--test-size", str(test_size), *more])  # fmt: skip
    return {path.stem: records.read(path) for path in sorted(folder.glob("*.tfrecords"))}


def refusal(*arguments) -> str:
    """What prepare.py says about these tables; it writes no records."""
    with tempfile.TemporaryDirectory() as folder:
        with pytest.raises(InputError) as caught:
            prepare.main(["--features", *map(str, arguments), "--output", folder])
        assert not list(Path(folder).iterdir())
    return str(caught.value)


def write(path: Path, **columns: list) -> Path:
    """JSON lines with these columns and the embeddings `e`."""
    rows = [
        dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)
    ]
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def vectors(count: int, seed: int = 0) -> list[list[float]]:
    """Embeddings of no network here; the first number of each is its row, from 1."""
    values = np.random.default_rng(seed).normal(size=(count, WIDTH)).round(3)
    values[:, 0] = np.arange(count) + 1
    return values.tolist()
