"""Decompress text as a stream, in bounded memory whatever the file claims."""

import contextlib
import io
import zlib
from typing import Any, BinaryIO

from age_gender.errors import InputError
from age_gender.files import without_compressed_suffix
from age_gender.readers.text_chunks import read_head

PIECE_BYTES = 64 << 10  # compressed bytes read at a time
ZSTD_PIECE_BYTES = 512  # compressed bytes of zstd; one such read may decompress to 16 MB
# Greatest ratio of text to file size: random numbers give 3, one repeated face gives 100
MAX_RATIO = 200
UNLIMITED_BYTES = 64 << 20  # bytes of text up to which any ratio is accepted
XZ_MEMORY = 128 << 20  # bytes for xz; of its presets, only --extreme -9 needs more
MAGICS = {
    b"\x1f\x8b": "gzip", b"BZh91AY&SY": "bzip2", b"\xfd7zXZ\x00": "xz", b"\x28\xb5\x2f\xfd": "zstd",
}  # fmt: skip


def decompress(path: str, stream: BinaryIO) -> BinaryIO:
    """Return a stream of the text: of the decompressed bytes, or the same stream, if it is text."""
    start = stream.peek(10)
    if len(start) < max(map(len, MAGICS)):  # a pipe that pauses, or a tiny file
        start, stream = read_head(stream, 10)
    if start.startswith(b"BZh"):
        start = b"BZh9" + start[4:]  # of any level
    for magic, name in MAGICS.items():
        if start.startswith(magic):
            return io.BufferedReader(_DecompressedStream(path, stream, name), PIECE_BYTES)
    if without_compressed_suffix(path) != path and start:
        raise InputError(f"{path}: not compressed as its name says; rename it or write it again")
    return stream


class _Decompressor:
    """Give a decompressor of zlib or zstandard the interface of those of bz2 and lzma.

    zstandard cannot limit the size of the output (`is_bounded` is False).
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
    """Read the decompressed bytes of a stream, which may be several compressed files in a row.

    Raises InputError for a stream that is broken, cut off, or decompresses to far too much.
    """

    def __init__(self, path: str, stream: BinaryIO, name: str) -> None:
        self.path, self.stream, self.name = path, stream, name
        self.decompressor: Any = None  # for the current compressed file
        self.waiting = b""  # bytes that are read but not decompressed
        self.text = memoryview(b"")  # bytes that are decompressed but not returned
        self.read_bytes = self.text_bytes = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer) -> int:
        try:
            self.text = self.text or memoryview(self._read_text(len(buffer)))
        except InputError:
            raise
        except Exception as error:  # each library raises other types
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
        """Return about `size` bytes of text, or none at its end. Raises EOFError if cut off."""
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
        """Return the bytes that wait for decompression, reading more if there are none."""
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
    import bz2  # here, since they take milliseconds to import
    import lzma

    if name == "bzip2":
        return bz2.BZ2Decompressor()
    if name == "xz":
        return lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=XZ_MEMORY)
    with contextlib.suppress(ImportError):
        import zstandard

        return _Decompressor(zstandard.ZstdDecompressor().decompressobj(), is_bounded=False)
    raise InputError(
        f"{path}: this Python cannot decompress zstd: pip install zstandard, or "
        f"zstd -dc {path} | python run.py --features -"
    )
