"""Find out from its first lines how a text table separates its cells."""

import functools
import re
from collections import Counter
from dataclasses import dataclass, replace

HEAD_LINES = 20  # lines that are compared
HEAD_BYTES = 1 << 17  # their bytes, at most
_MASKED = re.compile(rb'"(?:[^"]|"")*"|\[[^\]\n]*\]|\{[^}\n]*\}|\([^)\n]*\)')  # cells, lists
_QUOTED = re.compile(rb'"(?:[^"]|"")*"')
_BRACKET = re.compile(rb"[\[({]")
_SEP_LINE = re.compile(rb'"?sep=([,;|\t])"?\r?', re.IGNORECASE)  # which Excel writes and reads
_COUNTS_LINE = re.compile(rb"\d+ (\d+)\r?")  # of rows and of numbers, as word2vec has it
_RULE = re.compile(rb"[-+|: =]*(?:---|===)[-+|: =]*\r?\n?")
_DECIMAL_COMMA = re.compile(rb'"?[+-]?\d*,\d+(?:[eE][+-]?\d+)?"?')
_QUOTED_DECIMALS = re.compile(rb'"[+-]?\d*,\d+(?:[eE][+-]?\d+)?"')
_NUMBER = re.compile(rb"\s*[+-]?\.?\d[\d.,]*(?:[eE][+-]?\d+)?\s*")
MIN_SEPARATORS = 15  # separators in a line of numbers; fewer may belong to names


@dataclass(frozen=True)
class Dialect:
    """Hold the separators of cells and of decimals, and what else is needed to split the text."""

    delimiter: bytes = b","
    decimal_comma: bool = False
    skipped_lines: int = 0  # lines before the header or the first row
    has_bare_lists: bool = False  # whether lists without quotes hold the delimiter

    @property
    def is_spaces(self) -> bool:
        """Return whether any number of spaces separates two cells."""
        return self.delimiter == b" "

    def prepared(self, data: bytes) -> bytes:
        """Return the text with one delimiter between two cells, none round a line, quoted lists."""
        if self.has_bare_lists:
            before = b" " if self.is_spaces else rb"\1"
            data = _bare_list(self.delimiter).sub(before + rb'"\2"', data)
        if not self.is_spaces:
            return data
        return re.sub(rb"(?m)^ | (?=\r?$)", b"", re.sub(rb"[ \t]+", b" ", data))


@functools.cache
def _bare_list(delimiter: bytes) -> re.Pattern[bytes]:
    """Return a pattern of a cell that is a list which holds the delimiter, without quotes."""
    mark = re.escape(delimiter)
    before = rb"^ *| *[:=] *| +" if delimiter == b" " else rb"^ *|%s *" % mark  # name: [0.1, 0.2]
    inside = rb'[^\[\](){}"\n]*'
    pattern = rb"(?m)(%s)((?:[\[({] *)+%s%s%s(?: *[\])}])+)(?= *(?:%s|\r?$))"
    return re.compile(pattern % (before, inside, mark, inside, mark))


def find_dialect(text: bytes) -> Dialect:
    """Return the dialect with most cells of those in which the first lines have equally many."""
    head = text[:HEAD_BYTES]
    skipped, delimiter = _count_skipped(head.split(b"\n"))
    head = head.split(b"\n", skipped)[skipped]
    lines = _mask_lines(head)
    dialect = _find_separators(head, lines, delimiter)
    unquoted = _QUOTED.sub(b'""', head)
    bare_list = _BRACKET.search(unquoted)  # the other pattern would take 2 ms where there is none
    bare_list = bare_list and _bare_list(dialect.delimiter).search(unquoted)
    if not skipped and _has_title(lines, dialect.delimiter):
        skipped = next(i for i, line in enumerate(head.split(b"\n"), 1) if line.strip())
    return replace(dialect, skipped_lines=skipped, has_bare_lists=bare_list is not None)


def is_printed(lines: list[bytes]) -> bool:
    """Return whether a table is printed for people, with rules of hyphens in its first lines."""
    return any(map(_RULE.fullmatch, lines[:4]))


def _count_skipped(lines: list[bytes]) -> tuple[int, bytes]:
    """Return how many lines stand before the table, and the delimiter if the first one names it."""
    if (match := _SEP_LINE.fullmatch(lines[0])) and len(lines) > 1:
        return 1, match[1]
    counts = _COUNTS_LINE.fullmatch(lines[0])
    if counts and len(lines) > 1 and len(lines[1].split()) - 1 == int(counts[1]):
        return 1, b""
    comments = next((i for i, line in enumerate(lines) if not _is_comment(line)), 0)
    return (comments if lines[comments].strip() else 0), b""


def _is_comment(line: bytes) -> bool:
    """Return whether a line begins with # and is no row: it has no list and few numbers."""
    if not line.startswith(b"#") or _MASKED.search(line):
        return False
    cells = re.split(rb"[,;|\t ]+", line[1:].strip())
    return sum(_NUMBER.fullmatch(cell) is not None for cell in cells) < MIN_SEPARATORS


def _has_title(lines: list[bytes], delimiter: bytes) -> bool:
    """Return whether the first line has one cell, and the second is the header of those below."""
    counts = [len(line.split(delimiter)) for line in lines]
    if len(lines) < 3 or counts[0] > 1 or counts[1] < 2 or _most_common(counts[1:]) != counts[1]:
        return False
    return not any(map(_NUMBER.fullmatch, lines[1].split(delimiter)))


def _find_separators(head: bytes, lines: list[bytes], delimiter: bytes) -> Dialect:
    """Return the separators of the first lines of a text, where no line names the delimiter."""
    if delimiter:
        return Dialect(delimiter, _has_decimal_commas(lines, delimiter))
    counts = {d: _most_common([line.count(d) for line in lines]) for d in (b",", b"\t", b";", b"|")}
    for delimiter in (b";", b"\t", b"|"):
        if counts[delimiter] >= MIN_SEPARATORS and _has_decimal_commas(lines, delimiter):
            return Dialect(delimiter, True)
    delimiter = max(counts, key=counts.__getitem__)  # the comma where two are alike
    if counts[delimiter]:
        decimals = len(_QUOTED_DECIMALS.findall(head.rstrip().rpartition(b"\n")[2]))
        return Dialect(delimiter, decimals > MIN_SEPARATORS)
    spaces = _most_common([len(line.split()) - 1 for line in lines])
    if spaces >= MIN_SEPARATORS or (spaces and any(b"[]" in line.split() for line in lines)):
        return Dialect(b" ", _has_decimal_commas(lines, b" "))
    return Dialect()


def _mask_lines(head: bytes) -> list[bytes]:
    """Return the first lines that are not blank, without what stands in quotes and brackets."""
    head = head[: head.rfind(b"\n") + 1] or head
    lines = _MASKED.sub(lambda cell: b"[]" if cell[0][:1] == b"[" else b'""', head).split(b"\n")
    return [line.strip(b"\r") for line in lines if line.strip()][:HEAD_LINES]


def _most_common(counts: list[int]) -> int:
    """Return the count that most lines have, or 0 where they do not agree."""
    count, lines = Counter(counts).most_common(1)[0] if counts else (0, 0)
    return count if 2 * lines > len(counts) or len(counts) <= 2 else 0


def _has_decimal_commas(lines: list[bytes], delimiter: bytes) -> bool:
    """Return whether most cells of the last line are numbers with a decimal comma."""
    cells = [cell for line in lines[-1:] for cell in line.split(delimiter)]
    decimals = sum(_DECIMAL_COMMA.fullmatch(cell.strip()) is not None for cell in cells)
    return 2 * decimals > len(cells)
