"""Tables compressed by zstd are read where a package for it is installed, in bounded memory."""

import sys

import numpy as np
import pytest
from other_tools import refusal

from age_gender import table_writing
from age_gender.readers import compressed, tables


def compress(data: bytes) -> bytes:
    return pytest.importorskip("zstandard").compress(data)


def test_a_table_of_one_or_several_parts_is_read(tmp_path, faces):
    names, features = faces[0][:60], faces[1][:60]
    table_writing.write(tmp_path / "t.csv", names, [features])
    data = (tmp_path / "t.csv").read_bytes()
    for parts in ([data], [data[:9000], data[9000:]]):
        (tmp_path / "t.csv.zst").write_bytes(b"".join(map(compress, parts)))
        found, read = tables.read([tmp_path / "t.csv.zst"])
        assert found == [*names]
        np.testing.assert_array_equal(read, features)


def test_broken_and_bloated_files_are_refused(tmp_path, monkeypatch):
    path = tmp_path / "t.csv.zst"
    path.write_bytes(compress(b"1,2,3\n" * 9000)[:-9])
    assert "broken zstd data" in refusal(path)
    monkeypatch.setattr(compressed, "UNLIMITED_BYTES", 1 << 20)
    path.write_bytes(compress(b" " * (8 << 20)))
    assert "more than 200 times its size" in refusal(path)


def test_without_a_package_the_error_names_one(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "zstandard", None)
    (tmp_path / "t.csv.zst").write_bytes(b"\x28\xb5\x2f\xfd" + bytes(20))
    assert "pip install zstandard" in refusal(tmp_path / "t.csv.zst")
