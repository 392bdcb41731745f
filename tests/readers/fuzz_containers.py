"""Coverage-guided fuzzing of files whose sizes and lengths may lie: parquet, tfrecords.

With atheris. Whatever they claim, reading them returns or raises InputError: no other error, no end
of the process, and no more memory than libFuzzer's limit (-rss_limit_mb, 2048).

examples:
  python tests/readers/fuzz_containers.py parquet -max_total_time=60
  python tests/readers/fuzz_containers.py tfrecords -max_total_time=60
"""

import functools
import importlib
import io
import os
import sys
import tempfile
import warnings
from pathlib import Path

import numpy as np

sys.path[:0] = [str(Path(__file__).resolve().parent), str(Path(__file__).resolve().parents[2])]
import corpora  # noqa: E402

warnings.simplefilter("ignore")

WIDTH = 16
SHARED_MEMORY = "/dev/shm" if os.path.isdir("/dev/shm") else None


def main() -> None:
    import atheris

    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    target = TARGETS[sys.argv.pop(1)]
    module = (
        "age_gender.readers.tables" if target is check_parquet else "age_gender.training.records"
    )
    with atheris.instrument_imports(include=["age_gender.readers", "age_gender.training.records"]):
        importlib.import_module(module)
    corpora.fuzz(target, seeds(target))


def seeds(target) -> list[bytes]:
    """A small corpus: good files, and some with one change."""
    if target is check_parquet:
        changes = [b"", b"\x00\x40\x00", b"\x80\x80\x7f", b"\x00\x05\xff\x00\x06\xff\x00\x07\xff"]
        return [
            bytes([number]) + change for number in range(len(parquet_files())) for change in changes
        ]
    lengths = (5, 2**20, 2**31, 2**62, 2**64 - 1)
    return [bytes([3]) + length.to_bytes(8, "little") + b"bytes" for length in lengths]


# ------------------------------------------------------------------------------- Parquet


@functools.cache
def parquet_files() -> list[bytes]:
    """Small tables of lists, of columns and of bytes, compressed in ways that differ."""
    import pyarrow as pa
    import pyarrow.parquet

    rows = np.random.default_rng(0).standard_normal((40, WIDTH)).astype(np.float32)
    names = [f"name{i % 7}.jpg" for i in range(len(rows))]
    tables = [
        ({"path": names, "e": pa.array([*rows])}, "snappy"),
        ({"path": names, "e": pa.array([*rows], pa.list_(pa.float32(), WIDTH))}, "zstd"),
        ({"path": names, **{f"e{i}": rows[:, i] for i in range(WIDTH)}}, "none"),
        ({"path": names, "e": [row.tobytes() for row in rows]}, "gzip"),
        ({"image": [{"path": name} for name in names], "e": [str([*r]) for r in rows]}, "snappy"),
    ]
    contents = []
    for columns, compression in tables:
        stream = io.BytesIO()
        pyarrow.parquet.write_table(pa.table(columns), stream, compression=compression)
        contents.append(stream.getvalue())
    return contents


def check_parquet(data: bytes) -> None:
    """The first byte chooses a file; then each three are a place in it and its new byte.

    Places from the middle of their range on count from the end, where the metadata is.
    """
    from age_gender.errors import InputError
    from age_gender.readers import tables
    from age_gender.readers.columns import ReadOptions

    content = bytearray(parquet_files()[(data[0] if data else 0) % len(parquet_files())])
    for i in range(1, len(data) - 2, 3):
        place = int.from_bytes(data[i : i + 2], "big")
        place = place % len(content) if place < 1 << 15 else -1 - place % 3000
        content[place] = data[i + 2]
    with tempfile.NamedTemporaryFile(suffix=".parquet", dir=SHARED_MEMORY) as stream:
        stream.write(content)
        stream.flush()
        try:
            batches = [
                *map(tables.parse, tables.read_chunks([stream.name], ReadOptions(width=WIDTH)))
            ]
        except InputError:
            return
    for batch in batches:
        assert np.isfinite(batch.features).all()
        assert len(batch.row_indices) + len(batch.bad_rows) == batch.row_count


# ----------------------------------------------------------------------------- TFRecords


def checksum(data: bytes) -> bytes:
    """CRC-32C bit by bit, masked as TFRecord has it (tensorflow/core/lib/hash/crc32c.h)."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = (crc >> 1) ^ (0x82F63B78 if crc & 1 else 0)
    crc ^= 0xFFFFFFFF
    return ((((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF).to_bytes(4, "little")


def check_tfrecords(data: bytes) -> None:
    """The first byte is how many bytes a record has, before which stands what it claims, 8 bytes.

    All checksums are right: mutations alone would not get past them.
    """
    from age_gender.errors import InputError
    from age_gender.training import records

    size, content = data[0] if data else 0, b""
    for i in range(1, len(data), 8 + size):
        length, payload = data[i : i + 8], data[i + 8 : i + 8 + size]
        content += length + checksum(length) + payload + checksum(payload)
    with tempfile.NamedTemporaryFile(dir=SHARED_MEMORY) as stream:
        stream.write(content)
        stream.flush()
        try:
            faces = records.read(Path(stream.name))
        except InputError:
            return
    assert np.isfinite(faces.features).all() and faces.features.any(axis=1).all()


TARGETS = {"parquet": check_parquet, "tfrecords": check_tfrecords}

if __name__ == "__main__":
    main()
