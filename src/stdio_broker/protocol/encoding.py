"""From members to JSON text on one line. Pure.

A copy of 64 MiB holds everybody else up for 28 ms, and takes as much memory again. What we change of a
message is an id and a token; so a long one is sent in pieces: a few bytes of ours, and views of the text
that it was decoded from, which lives until the last of them is written.
"""

from collections.abc import Iterable, Mapping, Sized

import msgspec

__all__ = ["LONG_BYTES", "Pieces", "encode", "encode_in_pieces", "encode_message"]

#: What is no longer is copied: that takes less time than one more piece to write.
LONG_BYTES = 256 * 1024

# As integers: to look for one of them takes an eighth of the time.
_NEWLINE, _RETURN = b"\n\r"


class Pieces:
    """JSON on one line, in pieces.

    Args:
        pieces: Its bytes, in their order. No line ends in them.

    Attributes:
        pieces: The same.
    """

    __slots__ = ("_length", "pieces")

    def __init__(self, pieces: Iterable[bytes | memoryview]) -> None:
        self.pieces = tuple(pieces)
        self._length = sum(map(len, self.pieces))

    def __len__(self) -> int:
        """Return how many bytes it is long."""
        return self._length

    def __bytes__(self) -> bytes:
        """Return it in one piece: a copy."""
        return b"".join(self.pieces)


def encode(members: Mapping[str, msgspec.Raw | Pieces]) -> bytes:
    """Return a message, or a part of one, on one line.

    A client may send pretty-printed JSON, but a line may not contain a newline. In valid JSON
    one can only stand between tokens, so a space does as well.
    """
    line = _encode(members)
    if _NEWLINE in line or _RETURN in line:
        line = line.replace(b"\n", b" ").replace(b"\r", b" ")
    return line


def encode_in_pieces(members: Mapping[str, msgspec.Raw | Pieces]) -> Pieces:
    """Return the same in pieces: what is long is not copied.

    Args:
        members: Their values. A long one must be part of a message that was parsed, which has no line ends
            in it, or of our own making: it is not looked at again, which would take long.
    """
    pieces: list[bytes | memoryview] = []
    short: dict[str, msgspec.Raw | Pieces] = {}
    before = b"{"
    for name, value in members.items():
        if len(value) <= LONG_BYTES:
            short[name] = value
            continue
        text = encode({**short, name: _ZERO})
        pieces.append(before + text[1:-2])
        pieces += value.pieces if isinstance(value, Pieces) else (memoryview(value),)
        short, before = {}, b","
    return Pieces([*pieces, (before + encode(short)[1:]) if short or not pieces else b"}"])


def encode_message(members: Mapping[str, msgspec.Raw | Pieces], source: Sized) -> bytes | Pieces:
    """Return it in the way that is cheaper.

    Args:
        members: As above.
        source: What all that may be long in it was decoded from, or something as long.
    """
    return encode(members) if len(source) <= LONG_BYTES else encode_in_pieces(members)


def _joined(value: object) -> msgspec.Raw:
    """Return what the encoder does not know as it is to be encoded."""
    if not isinstance(value, Pieces):
        raise TypeError(f"expected what JSON has, found {type(value).__name__}")
    return msgspec.Raw(bytes(value))


_encode = msgspec.json.Encoder(enc_hook=_joined).encode
_ZERO = msgspec.Raw(b"0")
