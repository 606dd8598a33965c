"""JSON as text, not as values: every way to write a value is drawn, so that "to the letter" can be tested.

And an independent reader of meaning: Python's own `json`, made to keep what it would round or merge.
"""

import json
from collections.abc import Callable
from typing import TypeVar

from hypothesis import strategies as st

__all__ = [
    "ids",
    "json_objects",
    "json_strings",
    "json_values",
    "meaning",
    "numbers",
    "permuted",
    "rendered",
    "white_space",
]

T = TypeVar("T")

_DIGITS = "0123456789"

white_space = st.text(" \t\n\r", max_size=2).map(str.encode)


def _joined(*parts: st.SearchStrategy[str]) -> st.SearchStrategy[bytes]:
    return st.tuples(*parts).map(lambda pieces: "".join(pieces).encode())


def _or_nothing(part: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.one_of(st.just(""), part)


#: Also numbers that no machine type holds.
numbers = _joined(
    st.sampled_from(["", "-"]),
    st.one_of(st.just("0"), st.integers(1, 10**30).map(str)),
    _or_nothing(st.text(_DIGITS, min_size=1, max_size=4).map(lambda digits: "." + digits)),
    _or_nothing(
        st.tuples(st.sampled_from(["e", "E", "e+", "E-"]), st.integers(0, 999).map(str)).map("".join)
    ),
)

_plain = st.text(st.characters(codec="utf-8", min_codepoint=0x20, exclude_characters='"\\'), max_size=4).map(
    str.encode
)
_escapes = st.sampled_from(
    [rb"\n", rb"\r", rb"\"", rb"\\", rb"\/", rb"\u0041", rb"\u000a", rb"\u2028", rb"\uFFFF", rb"\uD83d\udE00"]
)
#: What looks like structure, an escape or a member of the envelope, and is none: it stands in a string.
_traps = st.sampled_from([b"ud800", b"{}", b'\\"id\\":7', b"\\\\ud800", b",", b"]", b"progressToken"])

json_strings = st.lists(st.one_of(_plain, _escapes, _traps), max_size=4).map(
    lambda pieces: b'"' + b"".join(pieces) + b'"'
)

_names = st.one_of(st.sampled_from([b'"id"', b'"result"', b'"method"', b'"progressToken"']), json_strings)


def _array(values: list[bytes], space: bytes) -> bytes:
    return b"[" + space + (space + b"," + space).join(values) + space + b"]"


def rendered(members: list[tuple[bytes, bytes]], space: bytes = b"") -> bytes:
    """Return an object of these members, names and values as they are to be written."""
    written = [name + space + b":" + space + value for name, value in members]
    return b"{" + space + (space + b"," + space).join(written) + space + b"}"


def _objects(values: st.SearchStrategy[bytes]) -> st.SearchStrategy[bytes]:
    members = st.lists(st.tuples(_names, values), max_size=3)
    return st.builds(rendered, members, white_space)


_scalars = st.one_of(st.sampled_from([b"true", b"false", b"null"]), numbers, json_strings)

json_values = st.recursive(
    _scalars,
    lambda values: st.one_of(st.builds(_array, st.lists(values, max_size=3), white_space), _objects(values)),
    max_leaves=4,
)
json_objects = _objects(json_values)

#: Ids that are easily taken for one another, and any others.
ids = st.one_of(
    st.sampled_from(
        [b"1", b'"1"', b"1.0", b"1e0", b"-1", b"0", b"-0", b'""', b'"\\u0031"', b"9007199254740993"]
    ),
    st.integers().map(lambda number: str(number).encode()),
    numbers,
    json_strings,
)


def permuted(*items: T) -> st.SearchStrategy[list[T]]:
    """Return these items in any order."""
    return st.permutations(items)


class _Object(tuple[tuple[str, object], ...]):
    """An object's members in their order, those that stand twice included."""

    __slots__ = ()


class _Number(str):
    """A number as it was written."""

    __slots__ = ()


def meaning(text: bytes) -> object:
    """Return what JSON text means, distinguishing whatever a receiver might distinguish."""
    number: Callable[[str], _Number] = _Number
    value: object = json.loads(
        text, object_pairs_hook=_Object, parse_float=number, parse_int=number, parse_constant=_refuse
    )
    return _tagged(value)


def _tagged(value: object) -> object:
    # A str and a tuple equal their subclasses, so the kind is put beside the value.
    if isinstance(value, _Object):
        return "object", [(name, _tagged(member)) for name, member in value]
    if isinstance(value, list):
        return "array", [_tagged(element) for element in value]
    if isinstance(value, _Number):
        return "number", str(value)
    return type(value).__name__, value


def _refuse(constant: str) -> object:
    raise ValueError(constant)
