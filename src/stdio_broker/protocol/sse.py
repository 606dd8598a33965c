"""Server-sent events: the encoder. Pure. Source: WHATWG HTML, "Server-sent events"."""

__all__ = ["KEEP_ALIVE", "encode_event"]

#: A comment line: ignored by every client, seen by every proxy that counts idle time.
KEEP_ALIVE = b": keep-alive\n\n"


def encode_event(message: bytes) -> bytes:
    """Return one JSON-RPC message as an event.

    Args:
        message: One line of JSON. A carriage return would end the line for an SSE parser; in JSON
            it can only be white space, so a space replaces it.
    """
    if b"\r" in message:
        message = message.replace(b"\r", b" ")
    return b"event: message\ndata: " + message + b"\n\n"
