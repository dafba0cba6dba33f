"""Which files an ONNX model wants opened beside it, read without onnx and before ONNX Runtime sees the model.

Walks the protobuf wire format (https://protobuf.dev/programming-guides/encoding/) along the fields of onnx.proto3 that
lead to tensors. Stricter than a protobuf parser: groups, unexpected wire types and overlong numbers are errors.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from mmap import mmap

from edgedsl.bundle.names import check_name
from edgedsl.errors import BundleError

# Message -> field number -> message inside it; a test compares this with the installed onnx.
_INSIDE = {
    "ModelProto": {7: "GraphProto", 20: "TrainingInfoProto", 25: "FunctionProto"},
    "TrainingInfoProto": {1: "GraphProto", 2: "GraphProto"},
    "FunctionProto": {7: "NodeProto", 11: "AttributeProto"},
    "GraphProto": {1: "NodeProto", 5: "TensorProto", 15: "SparseTensorProto"},
    "NodeProto": {5: "AttributeProto"},
    "AttributeProto": {
        5: "TensorProto", 6: "GraphProto", 10: "TensorProto", 11: "GraphProto",
        22: "SparseTensorProto", 23: "SparseTensorProto",
    },
    "SparseTensorProto": {1: "TensorProto", 2: "TensorProto"},
    "TensorProto": {13: "StringStringEntryProto"},
}  # fmt: skip
_MAX_DEPTH = 100  # protobuf's own limit
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


def check_locations(name: str, data: bytes | mmap, start: int, stop: int, files: Collection[str]) -> None:
    """Refuse a model that would open anything but a listed file of its own bundle.

    Args:
        name: the model's path in the bundle; locations are relative to its folder.
        data: a buffer that holds the serialised ModelProto from byte ``start`` to ``stop``.
        files: names of the bundle's files.

    Raises:
        BundleError: not a ModelProto, or a location that is no listed file.
    """
    folder = name[: name.rfind("/") + 1]
    try:
        for location in locations(data, start, stop):
            check_name(location)
            if folder + location not in files:
                raise BundleError(f"external data {location!r} is not a file of the bundle")
    except BundleError as exc:
        raise BundleError(f"file {name!r}: {exc.message}", hint="do not load it; export the bundle anew") from exc


def locations(data: bytes | mmap, start: int, stop: int) -> Iterator[str]:
    """Every external data location of a serialised ModelProto, in no particular order."""
    stack = [("ModelProto", start, stop, 0)]
    while stack:
        message, start, stop, depth = stack.pop()
        if depth > _MAX_DEPTH:
            raise BundleError(f"not an ONNX model: messages nested more than {_MAX_DEPTH} deep")
        for number, wire_type, begin, end in _fields(data, start, stop):
            inside = _INSIDE[message].get(number)
            if inside is None:
                continue
            if wire_type != _BYTES:
                raise BundleError(f"not an ONNX model: field {number} of {message} has wire type {wire_type}")
            if inside != "StringStringEntryProto":
                stack.append((inside, begin, end, depth + 1))
            elif (location := _location(data, begin, end)) is not None:
                yield location


def _location(data: bytes | mmap, start: int, stop: int) -> str | None:
    pair = {1: b"", 2: b""}
    for number, wire_type, begin, end in _fields(data, start, stop):
        if number in pair and wire_type != _BYTES:
            raise BundleError(f"not an ONNX model: external data entry has wire type {wire_type}")
        pair[number] = data[begin:end]
    if pair[1] != b"location":
        return None
    try:
        return pair[2].decode("utf-8")
    except UnicodeDecodeError as exc:
        raise BundleError(f"external data location {pair[2][:200]!r} is not UTF-8") from exc


def _fields(data: bytes | mmap, start: int, stop: int) -> Iterator[tuple[int, int, int, int]]:
    """Field number, wire type, and where the value begins and ends."""
    while start < stop:
        tag, begin = _varint(data, start, stop)
        number, wire_type = tag >> 3, tag & 7
        if wire_type == _VARINT:
            start = _varint(data, begin, stop)[1]
        elif wire_type == _BYTES:
            length, begin = _varint(data, begin, stop)
            start = begin + length
        elif wire_type in (_FIXED64, _FIXED32):
            start = begin + (8 if wire_type == _FIXED64 else 4)
        else:
            raise BundleError(f"not an ONNX model: wire type {wire_type} at byte {begin}")
        if start > stop or not 0 < number < 1 << 29:
            raise BundleError(f"not an ONNX model: field {number} at byte {begin} runs past its end")
        yield number, wire_type, begin, start


def _varint(data: bytes | mmap, start: int, stop: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if start >= stop:
            raise BundleError(f"not an ONNX model: it ends inside a number at byte {start}")
        byte = data[start]
        start += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, start
    raise BundleError(f"not an ONNX model: a number of more than 10 bytes at byte {start}")
