"""What large messages are made of, and how they are checked: `content.h` in Python.

The pattern is 65,528 letters, digits, `-` and `_` that look random, repeated; a large text is a piece of it.
The sums are Fletcher's, over words of 64 bits, little endian, the last one filled up with zeros.
"""

import functools
import struct
from itertools import accumulate

__all__ = ["PATTERN_WORDS", "digest", "piece"]

PATTERN_WORDS = 8191

_LETTERS = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
_BYTES = PATTERN_WORDS * 8
_MASK = 2**64 - 1
# Of a text that are summed up at once.
_CHUNK_BYTES = 64 * 1024


@functools.cache
def _pattern() -> bytes:
    made = bytearray()
    state = 1
    for _ in range(_BYTES):
        state = (state * 1103515245 + 12345) & 0x7FFFFFFF
        made.append(_LETTERS[state >> 16 & 63])
    return bytes(made)


def piece(seed: int, size: int) -> str:
    """Return so many bytes of the pattern, from its word number `seed` on."""
    offset = seed * 8 % _BYTES
    times = (offset + size) // _BYTES + 1
    return (_pattern() * times)[offset : offset + size].decode()


def digest(text: str) -> str:
    """Return what the tool `digest` answers: the length and the sums."""
    data = text.encode()
    first = second = 0
    for start in range(0, len(data), _CHUNK_BYTES):
        chunk = data[start : start + _CHUNK_BYTES]
        chunk += bytes(-len(chunk) % 8)
        *sums, last = accumulate(struct.unpack(f"<{len(chunk) // 8}Q", chunk), initial=first)
        # The first one is where the chunk before has ended, and counted there.
        second = second + sum(sums) - first + last & _MASK
        first = last & _MASK
    return f"{len(data)} {first:016x} {second:016x}"
