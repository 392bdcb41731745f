"""Read Thrift's compact protocol, as far as Parquet's metadata needs it.

The protocol: https://github.com/apache/thrift/blob/master/doc/specs/thrift-compact-protocol.md.
Each function takes bytes and an offset, and returns what it read there and the offset after it
(`skip_value` the offset alone). It raises IndexError where the bytes end too soon, and ValueError
or RecursionError where they are not this protocol.
"""

from collections.abc import Callable
from typing import Any

I16, I32, I64 = 4, 5, 6  # the protocol's numbers of types
TRUE, FALSE, BYTE, DOUBLE, BINARY, LIST, SET, STRUCT = 1, 2, 3, 7, 8, 9, 10, 12

ValueReader = Callable[[bytes, int], tuple[Any, int]]  # returns a value and the offset after it


def read_struct(
    data: bytes, offset: int, nested: dict[int, ValueReader] | None = None
) -> tuple[dict, int]:
    """Return a struct's fields, by number: whole numbers, and the fields that `nested` reads."""
    fields: dict[int, Any] = {}
    number = 0
    while header := data[offset]:
        offset += 1
        if header >> 4:
            number += header >> 4
        else:
            number, offset = _read_integer(data, offset)
        field_type = header & 15
        if field_type in (I16, I32, I64):
            fields[number], offset = _read_integer(data, offset)
        elif nested and number in nested:
            fields[number], offset = nested[number](data, offset)
        else:
            offset = skip_value(data, offset, field_type)
    return fields, offset + 1


def make_list_reader(read_element: ValueReader) -> ValueReader:
    """Return the function that reads a list of such elements."""

    def read_list(data: bytes, offset: int) -> tuple[list, int]:
        count, offset = _read_count(data, offset)
        elements = []
        for _ in range(count):
            element, offset = read_element(data, offset)
            elements.append(element)
        return elements, offset

    return read_list


def read_text(data: bytes, offset: int) -> tuple[str, int]:
    """Return a text of UTF-8."""
    size, offset = _read_varint(data, offset)
    return data[offset : offset + size].decode("utf-8", "replace"), offset + size


def skip_value(data: bytes, offset: int, field_type: int) -> int:
    """Return the offset after a value of a type."""
    if field_type in (TRUE, FALSE):
        return offset
    if field_type in (I16, I32, I64):
        while data[offset] & 128:
            offset += 1
        return offset + 1
    if field_type == BINARY:
        size, offset = _read_varint(data, offset)
        return offset + size
    if field_type == STRUCT:
        while header := data[offset]:
            offset += 1
            if header < 16:
                offset = skip_value(data, offset, I16)  # the number of the field
            offset = skip_value(data, offset, header & 15)
        return offset + 1
    if field_type in (LIST, SET):
        element_type = data[offset] & 15
        count, offset = _read_count(data, offset)
        step = 1 if element_type in (TRUE, FALSE) else 0  # in a list these take a byte each
        for _ in range(count):
            offset = skip_value(data, offset, element_type) + step
            data[offset - 1]  # raises IndexError
        return offset
    if field_type in (BYTE, DOUBLE):
        return offset + (1 if field_type == BYTE else 8)
    raise ValueError("Parquet's metadata has no maps")


def _read_count(data: bytes, offset: int) -> tuple[int, int]:
    count = data[offset] >> 4
    return (count, offset + 1) if count < 15 else _read_varint(data, offset + 1)


def _read_integer(data: bytes, offset: int) -> tuple[int, int]:
    if (byte := data[offset]) < 128:  # this shortcut saves a quarter of a header's time
        return (byte >> 1) ^ -(byte & 1), offset + 1
    value, offset = _read_varint(data, offset)
    return (value >> 1) ^ -(value & 1), offset


def _read_varint(data: bytes, offset: int) -> tuple[int, int]:
    value = shift = 0
    while (byte := data[offset]) & 128:
        value |= (byte & 127) << shift
        offset, shift = offset + 1, shift + 7
        if shift > 63:
            raise ValueError("not a whole number")
    return value | byte << shift, offset + 1
