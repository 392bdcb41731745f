"""Find out from its first lines how a text table separates its cells."""

import re
from collections import Counter
from dataclasses import dataclass

HEAD_LINES = 20  # lines that are compared
HEAD_BYTES = 1 << 17  # their bytes, at most
_MASKED = re.compile(rb'"(?:[^"]|"")*"|\[[^\]\n]*\]|\{[^}\n]*\}|\([^)\n]*\)')  # cells, lists
_SEP_LINE = re.compile(rb'\A"?sep=([,;|\t])"?\r?\n', re.IGNORECASE)  # which Excel writes and reads
_DECIMAL_COMMA = re.compile(rb"[+-]?\d*,\d+(?:[eE][+-]?\d+)?")
MIN_SEPARATORS = 15  # separators in a line of numbers; fewer may belong to names


@dataclass(frozen=True)
class Dialect:
    """The separators of cells and of decimals."""

    delimiter: bytes = b","
    decimal_comma: bool = False
    sep_line: bool = False  # whether the first line names the delimiter

    @property
    def is_spaces(self) -> bool:
        """Whether any number of spaces separates two cells."""
        return self.delimiter == b" "

    def prepared(self, data: bytes) -> bytes:
        """Return the text with one delimiter between two cells and none round a line."""
        if not self.is_spaces:
            return data
        return re.sub(rb"(?m)^ | (?=\r?$)", b"", re.sub(rb"[ \t]+", b" ", data))


def find_dialect(data: bytes) -> Dialect:
    """Return the dialect with most cells of those in which the first lines have equally many."""
    if sep_line := _SEP_LINE.match(data):
        delimiter, data = sep_line[1], data[sep_line.end() :]
        return Dialect(delimiter, _has_decimal_commas(_lines(data), delimiter), True)
    lines = _lines(data)
    counts = {d: _most_common([line.count(d) for line in lines]) for d in (b",", b"\t", b";", b"|")}
    for delimiter in (b";", b"\t", b"|"):
        if counts[delimiter] >= MIN_SEPARATORS and _has_decimal_commas(lines, delimiter):
            return Dialect(delimiter, True)
    delimiter = max(counts, key=counts.__getitem__)  # the comma where two are alike
    if counts[delimiter]:
        return Dialect(delimiter)
    spaces = _most_common([len(line.split()) - 1 for line in lines])
    if spaces >= MIN_SEPARATORS or (spaces and any(b"[]" in line.split() for line in lines)):
        return Dialect(b" ", _has_decimal_commas(lines, b" "))
    return Dialect()


def _lines(data: bytes) -> list[bytes]:
    """Return the first lines that are not blank, without what stands in quotes and brackets."""
    head = data[:HEAD_BYTES]
    head = head[: head.rfind(b"\n") + 1] or head
    lines = _MASKED.sub(lambda cell: b"[]" if cell[0][:1] == b"[" else b'""', head).split(b"\n")
    return [line.strip(b"\r") for line in lines if line.strip()][:HEAD_LINES]


def _most_common(counts: list[int]) -> int:
    """Return the count that most lines have, or 0 where they do not agree."""
    count, lines = Counter(counts).most_common(1)[0] if counts else (0, 0)
    return count if 2 * lines > len(counts) or len(counts) <= 2 else 0


def _has_decimal_commas(lines: list[bytes], delimiter: bytes) -> bool:
    cells = [cell for line in lines[-1:] for cell in line.split(delimiter)]
    return 2 * sum(_DECIMAL_COMMA.fullmatch(cell.strip()) is not None for cell in cells) > len(
        cells
    )
