"""What large messages are made of, and the sums of a text: `content.h` in Python, for few and short ones."""

import functools
import struct

__all__ = ["digest", "piece"]

_LETTERS = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
_PATTERN_BYTES = 8191 * 8
_WORD = 2**64 - 1


@functools.cache
def _pattern() -> bytes:
    made = bytearray()
    state = 1
    for _ in range(_PATTERN_BYTES):
        state = (state * 1103515245 + 12345) & 0x7FFFFFFF
        made.append(_LETTERS[state >> 16 & 63])
    return bytes(made)


def piece(size: int) -> str:
    """Return the beginning of the pattern, which repeats itself."""
    times = size // _PATTERN_BYTES + 1
    return (_pattern() * times)[:size].decode()


def digest(text: str) -> str:
    """Return what the tool `digest` answers: length, and Fletcher's sums over words of 64 bits."""
    data = text.encode()
    padded = data + bytes(-len(data) % 8)
    first = second = 0
    for (word,) in struct.iter_unpack("<Q", padded):
        first = (first + word) & _WORD
        second = (second + first) & _WORD
    return f"{len(data)} {first:016x} {second:016x}"
