"""Find out how a text table separates its cells, from its first lines."""

import functools
import re
from collections.abc import Callable
from typing import NamedTuple

HEAD_LINES, DIALECT_BYTES = 20, 1 << 17  # greatest size of the first lines that are compared
_QUOTED = re.compile(rb'"(?:[^"]|"")*"')
_MASKED = re.compile(_QUOTED.pattern + rb"|\[[^\]\n]*\]|\{[^}\n]*\}|\([^)\n]*\)")  # also lists
_BRACKET = re.compile(rb"[\[({]")
_SEP_LINE = re.compile(rb'"?sep=([,;|\t])"?\r?', re.IGNORECASE)  # Excel writes and reads it
_COUNTS_LINE = re.compile(rb"\d+ (\d+)\r?")  # word2vec's counts of rows and of numbers
_RULE = re.compile(rb"[-+|: =]*(?:---|===)[-+|: =]*\r?\n?")  # line below printed titles
_DPUT = re.compile(rb"\s*(?:list|structure)\(|\s*c\([^)]*$")  # c(...) within a line is a vector
_DECIMAL = rb"[+-]?\d*,\d+(?:[eE][+-]?\d+)?"  # number with a decimal comma
_DECIMAL_CELL = re.compile(rb'"?%s"?' % _DECIMAL)
_QUOTED_DECIMALS = re.compile(rb'"%s"' % _DECIMAL)
_NUMBER = re.compile(rb"\s*[+-]?\.?\d[\d.,]*(?:[eE][+-]?\d+)?\s*")
Rewrite = tuple[re.Pattern[bytes], bytes | Callable[[re.Match[bytes]], bytes]]
SPACES = [  # rewrites: any number of spaces separates two cells
    (re.compile(rb"[ \t]+"), b" "),
    (re.compile(rb"(?m)^ | (?=\r?$)"), b""),
]
MIN_SEPARATORS = 15  # fewest separators in a line of numbers; a name may have some too


class Dialect(NamedTuple):
    """Hold the separators of cells and of decimals, and how to turn the text into CSV."""

    delimiter: bytes = b","
    decimal_comma: bool = False
    skipped_lines: int = 0  # lines before the header or the first row
    rewrites: tuple[Rewrite, ...] = ()  # applied to lines before they are split

    def to_csv(self, data: bytes) -> bytes:
        """Return the text as CSV with this delimiter."""
        for pattern, replacement in self.rewrites:
            data = pattern.sub(replacement, data)
        return data


@functools.cache
def _bare_lists(delimiter: bytes) -> Rewrite:
    """Return the rewrite that quotes a list whose numbers are separated by the delimiter."""
    mark = re.escape(delimiter)
    before = rb"^ *| *[:=] *| +" if delimiter == b" " else rb"^ *|%s *" % mark  # name: [0.1, 0.2]
    inside = rb'[^\[\](){}"\n]*'
    pattern = rb"(?m)(%s)((?:[\[({] *)+%s%s%s(?: *[\])}])+)(?= *(?:%s|\r?$))"
    pattern %= before, inside, mark, inside, mark
    return re.compile(pattern), (b" " if delimiter == b" " else rb"\1") + rb'"\2"'


def _padding(delimiter: bytes) -> Rewrite:
    """Return the rewrite that removes spaces around delimiters outside quotes."""
    pattern = rb'(?m)("(?:[^"\n]|"")*")| *(%s) *| +(?=\r?$)' % re.escape(delimiter)
    return re.compile(pattern), rb"\1\2"


def _sql_quotes(delimiter: bytes) -> Rewrite:
    """Return the rewrite of cells in SQL's quotes ('it''s') to CSV's quotes."""
    pattern = rb"(?m)(?:^|(?<=%s))'((?:[^'\n]|'')*)'(?=%s|\r?$)"
    return re.compile(pattern.replace(rb"%s", re.escape(delimiter))), _requote


def _requote(cell: re.Match[bytes]) -> bytes:
    return b'"%s"' % cell[1].replace(b"''", b"'").replace(b'"', b'""')


def find_dialect(text: bytes) -> Dialect:
    """Return the dialect that splits most first lines into the same, largest number of cells."""
    # Find the lines above the table, and the separators
    head = text[:DIALECT_BYTES]
    skipped, delimiter = _count_skipped(head.split(b"\n"))
    head = head.split(b"\n", skipped)[skipped]
    lines = _mask_lines(head)
    dialect = _find_separators(head, lines, delimiter)
    delimiter = dialect.delimiter
    if not skipped and _has_title(lines, delimiter):
        skipped = next(i for i, line in enumerate(head.split(b"\n"), 1) if line.strip())

    # Find what must be rewritten to be CSV
    rewrites = []
    has_quotes = bool(lines) and all(b"'" in line for line in lines)
    if has_quotes and all(map(_sql_quotes(delimiter)[0].search, lines)):
        rewrites.append(_sql_quotes(delimiter))
    unquoted = _QUOTED.sub(b'""', head)
    has_brackets = _BRACKET.search(unquoted)  # without brackets, the other search would take 2 ms
    if has_brackets and _bare_lists(delimiter)[0].search(unquoted):
        rewrites.append(_bare_lists(delimiter))
    if delimiter == b" ":
        rewrites += SPACES
    elif all(line.count(b" %s " % delimiter) for line in lines):
        rewrites.append(_padding(delimiter))
    return dialect._replace(skipped_lines=skipped, rewrites=tuple(rewrites))


def describe_printed(lines: list[bytes]) -> str:
    """Return why a text is not a table, and what exports it as one, or ""."""
    if any(map(_RULE.fullmatch, lines[:4])):
        return (
            "a printed table, with rules between its lines; export it as CSV: psql --csv, "
            "mysql --batch, sqlite3 -csv, table.to_csv()"
        )
    if lines and _DPUT.match(lines[0]):
        return "R's dput, not a table; write a matrix, a row per face: write.csv(embeddings, ...)"
    return ""


def _count_skipped(lines: list[bytes]) -> tuple[int, bytes]:
    """Return the number of lines above the table, and the delimiter that the first line names."""
    if (match := _SEP_LINE.fullmatch(lines[0])) and len(lines) > 1:
        return 1, match[1]
    counts = _COUNTS_LINE.fullmatch(lines[0])
    if counts and len(lines) > 1 and len(lines[1].split()) - 1 == int(counts[1]):
        return 1, b""
    comments = next((i for i, line in enumerate(lines) if not _is_comment(line)), 0)
    return (comments if lines[comments].strip() else 0), b""


def _is_comment(line: bytes) -> bool:
    """Return whether a line begins with # and is no row, as it has no list and few numbers."""
    if not line.startswith(b"#") or _MASKED.search(line):
        return False
    cells = re.split(rb"[,;|\t ]+", line[1:].strip())
    return sum(_NUMBER.fullmatch(cell) is not None for cell in cells) < MIN_SEPARATORS


def _has_title(lines: list[bytes], delimiter: bytes) -> bool:
    """Return whether the first line is a title: one cell, above the header of the other lines."""
    counts = [len(line.split(delimiter)) for line in lines]
    if len(lines) < 3 or counts[0] > 1 or counts[1] < 2 or _most_common(counts[1:]) != counts[1]:
        return False
    return not any(map(_NUMBER.fullmatch, lines[1].split(delimiter)))


def _find_separators(head: bytes, lines: list[bytes], delimiter: bytes) -> Dialect:
    """Return the separators of a text's first lines; `delimiter` is empty if no line names it."""
    if delimiter:
        return Dialect(delimiter, _has_decimal_commas(lines, delimiter))
    counts = {d: _most_common([line.count(d) for line in lines]) for d in (b",", b"\t", b";", b"|")}
    for delimiter in (b";", b"\t", b"|"):
        if counts[delimiter] >= MIN_SEPARATORS and _has_decimal_commas(lines, delimiter):
            return Dialect(delimiter, True)
    delimiter = max(counts, key=counts.__getitem__)  # of equal counts, the comma's
    if counts[delimiter]:
        decimals = len(_QUOTED_DECIMALS.findall(head.rstrip().rpartition(b"\n")[2]))
        return Dialect(delimiter, decimals > MIN_SEPARATORS)
    spaces = _most_common([len(line.split()) - 1 for line in lines])
    if spaces >= MIN_SEPARATORS or (spaces and any(b"[]" in line.split() for line in lines)):
        return Dialect(b" ", _has_decimal_commas(lines, b" "))
    return Dialect()


def _mask_lines(head: bytes) -> list[bytes]:
    """Return the first lines that are not blank, without the contents of quotes and brackets."""
    head = head[: head.rfind(b"\n") + 1] or head
    lines = _MASKED.sub(lambda cell: b"[]" if cell[0][:1] == b"[" else b'""', head).split(b"\n")
    return [line.strip(b"\r") for line in lines if line.strip()][:HEAD_LINES]


def _most_common(counts: list[int]) -> int:
    """Return the count that most lines have, or 0 if the lines do not agree."""
    count = max(counts, key=counts.count, default=0)  # Counter would take 1 ms to import heapq
    return count if 2 * counts.count(count) > len(counts) or len(counts) <= 2 else 0


def _has_decimal_commas(lines: list[bytes], delimiter: bytes) -> bool:
    """Return whether over half the cells of the last line are numbers with a decimal comma."""
    cells = [cell for line in lines[-1:] for cell in line.split(delimiter)]
    decimals = sum(_DECIMAL_CELL.fullmatch(cell.strip()) is not None for cell in cells)
    return 2 * decimals > len(cells)
