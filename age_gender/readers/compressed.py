"""Decompress text as a stream, in bounded memory whatever the file claims."""

import contextlib
import io
import re
import zlib
from typing import Any, BinaryIO

from age_gender.errors import InputError
from age_gender.readers.text_chunks import read_head

SUFFIXES = (".gz", ".bz2", ".xz", ".zst")
PIECE_BYTES = 64 << 10  # compressed bytes that are read at a time
ZSTD_PIECE_BYTES = 512  # of zstd: its blocks decompress to 16 MB at most
MAX_RATIO = 200  # of the text's size to the file's: random numbers give 3, one face repeated 100
UNLIMITED_BYTES = 64 << 20  # size of text up to which any ratio is allowed
XZ_MEMORY = 128 << 20  # bytes for xz: more than any preset of it but --extreme -9 needs
MAGICS = {
    b"\x1f\x8b": "gzip", b"BZh91AY&SY": "bzip2", b"\xfd7zXZ\x00": "xz", b"\x28\xb5\x2f\xfd": "zstd",
}  # fmt: skip


def without_suffix(path: str) -> str:
    """Return a path without the suffix of a compressed file."""
    return re.sub(r"\.(gz|bz2|xz|zst)\Z", "", path, flags=re.IGNORECASE)


def decompress(path: str, stream: BinaryIO) -> BinaryIO:
    """Return a stream of the text: the stream itself, or its decompression, by its first bytes."""
    start = stream.peek(10)
    if len(start) < max(map(len, MAGICS)):  # a pipe that pauses, or a tiny file
        start, stream = read_head(stream, 10)
    if start.startswith(b"BZh"):
        start = b"BZh9" + start[4:]  # of any level
    for magic, name in MAGICS.items():
        if start.startswith(magic):
            return io.BufferedReader(_DecompressedStream(path, stream, name), PIECE_BYTES)
    if path.lower().endswith(SUFFIXES) and start:
        raise InputError(f"{path}: not compressed as its name says; rename it or write it again")
    return stream


class _Decompressor:
    """Give one of zlib or the package zstandard the interface of the decompressors of bz2, lzma.

    That package knows no bound of the output.
    """

    def __init__(self, wrapped: Any, is_bounded: bool = True) -> None:
        self._wrapped, self._is_bounded = wrapped, is_bounded

    def decompress(self, data: bytes, size: int) -> bytes:
        bound = [size] if self._is_bounded else []
        return self._wrapped.decompress(self._wrapped.unconsumed_tail + data, *bound)

    @property
    def needs_input(self) -> bool:
        return not self._wrapped.unconsumed_tail

    @property
    def eof(self) -> bool:
        return self._wrapped.eof

    @property
    def unused_data(self) -> bytes:
        return self._wrapped.unused_data


class _DecompressedStream(io.RawIOBase):
    """Read the decompressed bytes of a stream, also of several members, as cat joins them.

    Raises InputError for one that is broken, cut off, or far larger than it may be.
    """

    def __init__(self, path: str, stream: BinaryIO, name: str) -> None:
        self.path, self.stream, self.name = path, stream, name
        self.decompressor: Any = None  # of the current member
        self.waiting = b""  # read, but not decompressed
        self.text = memoryview(b"")  # decompressed
        self.read_bytes = self.text_bytes = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer) -> int:
        try:
            self.text = self.text or memoryview(self._read_text(len(buffer)))
        except InputError:
            raise
        except Exception as error:  # each library has its own
            raise InputError(
                f"{self.path}: broken {self.name} data ({error}); copy or write it again"
            ) from None
        data, self.text = self.text[: len(buffer)], self.text[len(buffer) :]
        self.text_bytes += len(data)
        if self.text_bytes > max(UNLIMITED_BYTES, MAX_RATIO * self.read_bytes):
            raise InputError(
                f"{self.path}: decompresses to more than {MAX_RATIO} times its size, as no table "
                "of embeddings does; decompress it if it is one"
            )
        buffer[: len(data)] = data
        return len(data)

    def _read_text(self, size: int) -> bytes:
        """Return some text, of about this size; none at its end. Raises EOFError if cut off."""
        while True:
            if self.decompressor is None:
                self._fill()
                if not self.waiting.strip(b"\0"):
                    return b""
                self.decompressor = _make_decompressor(self.path, self.name)
            elif self.decompressor.needs_input and not self._fill():
                raise EOFError("it is cut off")
            data = self.decompressor.decompress(self.waiting, size)
            self.waiting = b""
            if self.decompressor.eof:
                self.waiting, self.decompressor = self.decompressor.unused_data, None
            if data:
                return data

    def _fill(self) -> bytes:
        """Return what is read and not decompressed, more of the file if that is nothing."""
        if not self.waiting:
            self.waiting = self.stream.read1(
                ZSTD_PIECE_BYTES if self.name == "zstd" else PIECE_BYTES
            )
            self.read_bytes += len(self.waiting)
        return self.waiting


def _make_decompressor(path: str, name: str) -> Any:
    """Return a decompressor of a format. Raises InputError where this Python has none."""
    if name == "gzip":
        return _Decompressor(zlib.decompressobj(31))  # with gzip's header and checksum
    import bz2  # here, as they take milliseconds to import
    import lzma

    if name == "bzip2":
        return bz2.BZ2Decompressor()
    if name == "xz":
        return lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=XZ_MEMORY)
    with contextlib.suppress(ImportError):  # from Python 3.14 on
        from compression.zstd import ZstdDecompressor

        return ZstdDecompressor()
    with contextlib.suppress(ImportError):
        import zstandard

        return _Decompressor(zstandard.ZstdDecompressor().decompressobj(), is_bounded=False)
    raise InputError(
        f"{path}: this Python cannot decompress zstd: pip install zstandard, or "
        f"zstd -dc {path} | python run.py --features -"
    )
