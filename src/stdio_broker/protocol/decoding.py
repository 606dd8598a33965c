"""From JSON text to the members of an object, one level deep, with bounds on what it may cost. Sans-IO.

Members keep the very bytes they came in: they are views of the text, which lives as long as any of them.

What takes long for a long text is cut into steps, so that whoever takes them can do something else in
between. One call of the decoder is one step, it cannot be cut: for 64 MiB it takes 11 ms if they are one
string, and 50 ms if they are small objects.
"""

import codecs
import io
import re
from collections.abc import Generator
from typing import TypeVar

import msgspec

__all__ = [
    "MALFORMED",
    "MAX_MEMBERS",
    "MAX_REPLACED_SURROGATES",
    "SMALL_BYTES",
    "UTF8_CHECK_BYTES",
    "Members",
    "Steps",
    "decode_elements",
    "decode_in_steps",
    "decode_members",
    "decode_short",
    "finish",
    "replace_invalid_utf8",
]

#: Members of one object, where there may be many, and messages in one batch. Each costs us far more
#: memory than it costs the sender bytes, so what is built before anybody looks must be bounded.
MAX_MEMBERS = 1024

#: A text up to this size cannot hold so many members that they matter, and is read in one step.
SMALL_BYTES = 64 * 1024

#: Lone surrogates replaced in one message, which takes time; one with more of them is refused.
MAX_REPLACED_SURROGATES = 64 * 1024

#: Bytes that are checked for UTF-8 at a time. All at once would need up to five times as many.
UTF8_CHECK_BYTES = 64 * 1024

#: Bytes that are looked at, or copied, in one step: one to ten milliseconds. An even number.
STEP_BYTES = 2 * 1024 * 1024

Members = dict[str, msgspec.Raw]

Result = TypeVar("Result")

#: Work in steps: a generator that yields between them and returns what comes of it.
Steps = Generator[None, None, Result]

#: What is raised for text that is no JSON. RecursionError: nesting deeper than the interpreter allows.
#: UnicodeDecodeError: text, or a name, that is not UTF-8.
MALFORMED = (msgspec.DecodeError, RecursionError, UnicodeDecodeError)

_decode_few = msgspec.json.Decoder(Members).decode
# A list would be built whole before its length is looked at; this refuses what is one too many.
_decode_batch = msgspec.json.Decoder(
    msgspec.defstruct(
        "_Batch",
        [(f"element_{index}", msgspec.Raw, msgspec.Raw()) for index in range(MAX_MEMBERS)],
        array_like=True,
        forbid_unknown_fields=True,
    )
).decode

# Half of a pair of surrogates is no character, though JavaScript writes it, and strict decoders
# refuse the whole message for it. A high one without a low one behind it, or the other way round.
_LONE_SURROGATE = re.compile(
    rb"\\u[dD](?:[89abAB][0-9a-fA-F]{2}(?!\\u[dD][c-fC-F][0-9a-fA-F]{2})"
    rb"|(?<!\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD])[c-fC-F][0-9a-fA-F]{2})"
)
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")

# How far behind its first byte these patterns look.
_PAIR_BYTES = len(rb"\ud83d\ude00")


def finish(steps: Steps[Result]) -> Result:
    """Take all steps at once."""
    try:
        while True:
            next(steps)
    except StopIteration as done:
        result: Result = done.value
        return result


def decode_short(text: bytes) -> tuple[Members, bytes]:
    """Return the members of an object, and the text that they are views of: another if it was repaired.

    Args:
        text: At most `SMALL_BYTES`.

    Raises:
        DecodeError, RecursionError, UnicodeDecodeError: It is no JSON, or no object.
    """
    if not text.isascii():
        str(text, "utf-8")  # msgspec does not look inside what it leaves raw, so ask for the error here
    try:
        return _decode_few(text), text
    except MALFORMED as exc:
        text = finish(_repair(text, exc))
        return _decode_few(text), text


def decode_in_steps(text: bytes) -> Steps[tuple[Members, bytes]]:
    """Return the same of a text of any length; of a long one on one line, whatever it was before.

    Nobody need look for line ends in a member of it again, which takes long.

    Raises:
        DecodeError, RecursionError, UnicodeDecodeError: It is no JSON, or no object.
    """
    if len(text) <= SMALL_BYTES:
        return decode_short(text)
    yield from _check_utf8(text)
    yield
    try:
        members = decode_members(text)
    except MALFORMED as exc:
        text = yield from _repair(text, exc)
        members = decode_members(text)
    yield
    # Not before: in a string a line end would be malformed. One may stand behind the last brace, or before
    # it: a member does not end with white space.
    if text.find(b"\n", 0, -2) >= 0 or text.find(b"\r", 0, -2) >= 0:
        text = yield from _as_one_line(text)
        members = decode_members(text)
    yield
    return members, text


def decode_members(text: bytes | msgspec.Raw) -> Members:
    """Return the members of an object, of text that is known to be UTF-8, and to hold no lone surrogates.

    Raises:
        DecodeError, RecursionError, UnicodeDecodeError: It is no JSON, or no object.
    """
    if len(text) <= SMALL_BYTES:
        return _decode_few(text)
    members = msgspec.json.Decoder(dict[_Name, msgspec.Raw], dec_hook=_NameCounter()).decode(text)
    return dict(members.items())


def decode_elements(text: bytes) -> Steps[list[bytes]]:
    """Return the elements of an array, each a text of its own.

    Raises:
        DecodeError, RecursionError, UnicodeDecodeError: It is no JSON, or no array of up to `MAX_MEMBERS`.
    """
    yield from _check_utf8(text)
    try:
        batch = _decode_batch(text)
    except MALFORMED as exc:
        text = yield from _repair(text, exc)
        batch = _decode_batch(text)
    elements = []
    for element in msgspec.structs.astuple(batch):
        if len(element) > SMALL_BYTES:
            yield
        # What the batch is too short for is left at its default, which is empty; no element is.
        if element:
            elements.append(bytes(element))
    return elements


def replace_invalid_utf8(text: bytes) -> Steps[bytes]:
    """Return the text with U+FFFD in place of what is no UTF-8 in it."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    view, valid = memoryview(text), io.BytesIO()
    for start in range(0, len(text), UTF8_CHECK_BYTES):
        if start % STEP_BYTES == 0:
            yield
        valid.write(decoder.decode(view[start : start + UTF8_CHECK_BYTES]).encode())
    valid.write(decoder.decode(b"", final=True).encode())
    return valid.getvalue()


class _Name(str):
    """The name of a member, of a type of its own so that msgspec asks us for each."""

    __slots__ = ()


class _NameCounter:
    """Takes so many names and no more, while the object is still being decoded."""

    def __init__(self) -> None:
        self._names = 0

    def __call__(self, kind: type[_Name], name: str) -> _Name:
        self._names += 1
        if self._names > MAX_MEMBERS:
            raise ValueError(f"expected at most {MAX_MEMBERS} members in an object of this size")
        return kind(name)


def _check_utf8(text: bytes) -> Steps[None]:
    if text.isascii():
        return
    decoder = codecs.getincrementaldecoder("utf-8")()
    view = memoryview(text)
    for start in range(0, len(text), UTF8_CHECK_BYTES):
        if start % STEP_BYTES == 0:
            yield
        decoder.decode(view[start : start + UTF8_CHECK_BYTES])
    decoder.decode(b"", final=True)


def _as_one_line(text: bytes) -> Steps[bytes]:
    """In valid JSON a line end can only stand between tokens, so a space does as well."""
    line = io.BytesIO()
    for start in range(0, len(text), STEP_BYTES):
        yield
        line.write(text[start : start + STEP_BYTES].replace(b"\n", b" ").replace(b"\r", b" "))
    return line.getvalue()


def _repair(text: bytes, fault: Exception) -> Steps[bytes]:
    """Return the text with lone surrogates replaced, or raise what was wrong with it if it has none."""
    # No JSON text holds a NUL; see below.
    if 0 in text or not (yield from _has_surrogates(text)):
        raise fault
    # Escaped backslashes are out of the way meanwhile, or the second half of one would seem to begin
    # an escape. Without a call per escape: a body can hold millions.
    text = yield from _without_escaped_backslashes(text)
    repaired, done, replaced = io.BytesIO(), 0, 0
    for start in range(0, len(text), STEP_BYTES):
        yield
        end = start + STEP_BYTES
        for lone in _LONE_SURROGATE.finditer(text, start, end + _PAIR_BYTES):
            if lone.start() >= end or replaced == MAX_REPLACED_SURROGATES:
                break
            repaired.write(text[done : lone.start()].replace(b"\0", rb"\\"))
            repaired.write(rb"\ufffd")
            done = lone.end()
            replaced += 1
        repaired.write(text[done:end].replace(b"\0", rb"\\"))
        done = max(done, end)
    return repaired.getvalue()


def _has_surrogates(text: bytes) -> Steps[bool]:
    for start in range(0, len(text), STEP_BYTES):
        yield
        if _SURROGATE.search(text, start, start + STEP_BYTES + _PAIR_BYTES):
            return True
    return False


def _without_escaped_backslashes(text: bytes) -> Steps[bytes]:
    """Return the text with a NUL in place of each."""
    without, start = io.BytesIO(), 0
    while start < len(text):
        yield
        piece = text[start : start + STEP_BYTES]
        # Not cut between two backslashes, unless all are: then an even number of them is on either side.
        piece = piece.rstrip(b"\\") or piece
        without.write(piece.replace(rb"\\", b"\0"))
        start += len(piece)
    return without.getvalue()
