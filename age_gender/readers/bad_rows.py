"""Define a row's position, RowError for a row that cannot be used, and BadRow, which locates it."""

from typing import NamedTuple

from age_gender.errors import printable

MISSING_EMBEDDING = "the embedding is missing"


class RowError(Exception):
    """Raised for a row that cannot be used; `reason` says why, `remedy` what to do, if not ""."""

    def __init__(self, reason: str, remedy: str = "") -> None:
        reason, remedy = printable(reason), printable(remedy)  # both may quote a file
        super().__init__(reason, remedy)
        self.reason, self.remedy = reason, remedy

    def __str__(self) -> str:
        return f"{self.reason}; {self.remedy}" if self.remedy else self.reason


class RowSource(NamedTuple):
    """Hold the position of a row, for messages: its file, its number from 1, its line or 0."""

    path: str
    row: int
    line: int

    def __str__(self) -> str:
        return f"{self.path}: row {self.row}" + f" (line {self.line})" * (self.line > 0)


class BadRow(NamedTuple):
    """Describe a row that cannot be used.

    `row` and `line` count from 1: in the row's chunk, or, after `numbered_in_file`, in its file.
    """

    path: str
    row: int
    line: int  # 0 where the format has no lines
    reason: str
    remedy: str = ""  # what to do, if not to correct the row

    def numbered_in_file(self, rows_before: int, lines_before: int) -> "BadRow":
        """Return the bad row with the numbers that it has in its file."""
        line = lines_before + self.line if self.line else 0
        return self._replace(row=rows_before + self.row, line=line)

    def __str__(self) -> str:
        return f"{RowSource(self.path, self.row, self.line)}: {self.reason}"
