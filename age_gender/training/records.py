"""Write and read TFRecords of this schema:

features   float[W]     the embedding as it was read; W is the same for all records of a file
age        int64        years, 0-116
gender     int64        0 male, 1 female
file_name  bytes        the face's name, UTF-8
"""

import contextlib
import os
import struct
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tensorflow as tf
from google.protobuf.message import DecodeError

from age_gender.embeddings import MAX_WIDTH, MIN_WIDTH
from age_gender.errors import InputError
from age_gender.files import atomic_path
from age_gender.labels import AGE_CLASSES

BATCH = 1024  # records that are read together
MAX_RECORD_BYTES = 1 << 20  # 4,096 numbers and a name need far less
_FRAME_BYTES = 16  # bytes of a record's length (8) and two checksums (4 each)
_REMEDY = "write the file again: python prepare.py"
INCOMPLETE = ".records_incomplete"  # file that marks a folder while its records are replaced


class Records(NamedTuple):
    """Hold n labelled faces in file order."""

    features: np.ndarray  # float32 (n, width)
    age: np.ndarray  # int64 (n,), years
    gender: np.ndarray  # int64 (n,), 0 male, 1 female
    file_names: list[str]


LabelledFace = tuple[np.ndarray, int, int, str]  # embedding, age, gender, file name


def write_all(faces_by_file: Mapping[Path, Iterable[LabelledFace] | None]) -> None:
    """Write all files of a folder or none; delete those whose faces are None.

    Files are renamed one after the other, and a kill in between would mix new files with old ones.
    While INCOMPLETE is in the folder, `read` refuses its records.
    """
    incomplete = next(iter(faces_by_file)).with_name(INCOMPLETE)
    with contextlib.ExitStack() as together:
        for path, faces in faces_by_file.items():
            if faces is not None:
                write(together.enter_context(atomic_path(path)), faces)
        incomplete.touch()
        for path, faces in faces_by_file.items():
            if faces is None:
                path.unlink(missing_ok=True)
    incomplete.unlink()


def write(path: Path, faces: Iterable[LabelledFace]) -> None:
    """Write the record of each face. Raises OSError on a full disk."""
    try:
        with tf.io.TFRecordWriter(os.fsencode(path)) as writer:
            for embedding, age, gender, name in faces:
                feature = {
                    "features": {"float_list": {"value": embedding}},
                    "age": {"int64_list": {"value": [age]}},
                    "gender": {"int64_list": {"value": [gender]}},
                    "file_name": {"bytes_list": {"value": [name.encode()]}},
                }
                example = tf.train.Example(features={"feature": feature})
                writer.write(example.SerializeToString(deterministic=True))
    except tf.errors.OpError as error:  # a full disk, a file-size limit
        reason = error.message.rpartition("; ")[2].lower()  # after the names of internal files
        advice = "free some space or choose another folder"
        raise OSError(f"{path.parent}: {reason}; {advice}") from None


def read(path: Path) -> Records:
    """Return all records of a file, checked. Raises InputError that names file and record."""
    # Check the file and its folder
    if not path.is_file():
        raise InputError(f"{path}: no such records file; write it with: python prepare.py")
    if path.with_name(INCOMPLETE).exists():
        raise InputError(
            f"{path.parent}: prepare.py was interrupted while replacing the records in this "
            "folder, which may come from two runs; run it again: python prepare.py"
        )
    _check_lengths(path)

    # Parse it, and check the values
    faces = _parse_records(path)
    for number, face in enumerate(faces, 1):
        if fault := _find_fault(*face):
            raise InputError(f"{path}: record {number}: {fault}; {_REMEDY}")
    features, age, gender, names = zip(*faces, strict=True)
    return Records(np.array(features), np.array(age), np.array(gender), list(names))


def _parse_records(path: Path) -> list[LabelledFace]:
    """Return the faces in a file. Raises InputError unless all match the schema."""
    faces: list[LabelledFace] = []
    try:
        for batch in tf.data.TFRecordDataset(os.fsencode(path)).batch(BATCH):
            for record in batch.numpy():
                faces.append(_parse_record(record, len(faces[0][0]) if faces else None))
    except (DecodeError, ValueError):
        width = len(faces[0][0]) if faces else f"{MIN_WIDTH} to {MAX_WIDTH:,}"
        raise InputError(
            f"{path}: record {len(faces) + 1} does not match the schema (features "
            f"float[{width}], age, gender, file_name); {_REMEDY}"
        ) from None
    except tf.errors.DataLossError:
        raise InputError(
            f"{path}: corrupt between records {len(faces) + 1:,} and {len(faces) + BATCH:,} "
            f"(checksum mismatch or truncated); {_REMEDY}"
        ) from None
    if not faces:
        raise InputError(f"{path}: no records in this file; {_REMEDY}")
    return faces


def _parse_record(record: bytes, width: int | None) -> LabelledFace:
    """Return the face in a record. Raises ValueError for other content or another width."""
    feature = tf.train.Example.FromString(record).features.feature
    embedding = np.array(feature["features"].float_list.value, np.float32)
    (age,), (gender,) = (feature[key].int64_list.value for key in ("age", "gender"))
    (name,) = feature["file_name"].bytes_list.value
    if len(embedding) != (width or len(embedding)) or not MIN_WIDTH <= len(embedding) <= MAX_WIDTH:
        raise ValueError("of another width")
    return embedding, age, gender, name.decode("utf-8", "replace")


def _find_fault(embedding: np.ndarray, age: int, gender: int, name: str) -> str | None:
    """Return what is wrong with a record, or None."""
    if not np.isfinite(embedding).all():
        return "its features are not all finite"
    if not embedding.any():
        return "its features are all zeros"
    if not 0 <= age < AGE_CLASSES:
        return f"its age {age} is not from 0 to {AGE_CLASSES - 1}"
    return None if gender in (0, 1) else f"its gender {gender} is not 0 or 1"


def _check_lengths(path: Path) -> None:
    """Raise InputError for a file with an impossible record length, or a compressed one.

    TensorFlow trusts a length whose checksum is right, and allocates it: 2**62 bytes end the
    process with a segmentation fault.
    """
    size, end, number = os.path.getsize(path), 0, 0
    with open(path, "rb") as stream:
        if stream.read(2) == b"\x1f\x8b":
            raise InputError(f"{path}: compressed with gzip; unpack it: gunzip -S {path.suffix}")
        while end + _FRAME_BYTES <= size:
            stream.seek(end)
            (length,) = struct.unpack("<Q", stream.read(8))
            if length > min(MAX_RECORD_BYTES, size - end - _FRAME_BYTES):
                raise InputError(
                    f"{path}: corrupt at record {number + 1} (its length reads {length:,} bytes: "
                    f"checksum mismatch or truncated); {_REMEDY}"
                )
            end, number = end + length + _FRAME_BYTES, number + 1
