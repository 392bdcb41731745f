"""Read Thrift's compact protocol, as far as Parquet's metadata needs it.

The protocol: https://github.com/apache/thrift/blob/master/doc/specs/thrift-compact-protocol.md.
All functions take bytes and where to begin, and return where they ended. They raise IndexError
where the bytes end too soon, ValueError or RecursionError where they are something else.
"""

from collections.abc import Callable
from typing import Any

I16, I32, I64 = 4, 5, 6  # numbers of the types in the protocol
TRUE, FALSE, BYTE, DOUBLE, BINARY, LIST, SET, STRUCT = 1, 2, 3, 7, 8, 9, 10, 12

Parser = Callable[[bytes, int], tuple[Any, int]]


def struct(data: bytes, at: int, nested: dict[int, Parser] | None = None) -> tuple[dict, int]:
    """Return the fields of a struct that are whole numbers, and those that `nested` parses."""
    fields: dict[int, Any] = {}
    number = 0
    while head := data[at]:
        at += 1
        if head >> 4:
            number += head >> 4
        else:
            number, at = _integer(data, at)
        field_type = head & 15
        if field_type in (I16, I32, I64):
            fields[number], at = _integer(data, at)
        elif nested and number in nested:
            fields[number], at = nested[number](data, at)
        else:
            at = skip(data, at, field_type)
    return fields, at + 1


def list_of(parser: Parser) -> Parser:
    """Return the parser of a list whose elements `parser` parses."""

    def parse(data: bytes, at: int) -> tuple[list, int]:
        count, at = _count(data, at)
        elements = []
        for _ in range(count):
            element, at = parser(data, at)
            elements.append(element)
        return elements, at

    return parse


def text(data: bytes, at: int) -> tuple[str, int]:
    """Return a text."""
    size, at = _varint(data, at)
    return data[at : at + size].decode("utf-8", "replace"), at + size


def skip(data: bytes, at: int, field_type: int) -> int:
    """Return where a value of a type ends."""
    if field_type in (TRUE, FALSE):
        return at
    if field_type in (I16, I32, I64):
        while data[at] & 128:
            at += 1
        return at + 1
    if field_type == BINARY:
        size, at = _varint(data, at)
        return at + size
    if field_type == STRUCT:
        while head := data[at]:
            at += 1
            if head < 16:
                at = skip(data, at, I16)  # the number of the field
            at = skip(data, at, head & 15)
        return at + 1
    if field_type in (LIST, SET):
        element_type = data[at] & 15
        count, at = _count(data, at)
        for _ in range(count):
            at = at + 1 if element_type in (TRUE, FALSE) else skip(data, at, element_type)
            data[at - 1]  # raises IndexError
        return at
    if field_type in (BYTE, DOUBLE):
        return at + (1 if field_type == BYTE else 8)
    raise ValueError("maps are in no metadata of Parquet")


def _count(data: bytes, at: int) -> tuple[int, int]:
    count = data[at] >> 4
    return (count, at + 1) if count < 15 else _varint(data, at + 1)


def _integer(data: bytes, at: int) -> tuple[int, int]:
    if (byte := data[at]) < 128:  # a quarter of a header's time
        return (byte >> 1) ^ -(byte & 1), at + 1
    value, at = _varint(data, at)
    return (value >> 1) ^ -(value & 1), at


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while (byte := data[at]) & 128:
        value |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if shift > 63:
            raise ValueError("not a whole number")
    return value | byte << shift, at + 1
