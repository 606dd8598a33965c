"""Server-sent events: the encoder. Pure.

Source: WHATWG HTML, "Server-sent events"; MCP 2025-11-25, basic/transports (ids, priming, retry).
"""

__all__ = ["KEEP_ALIVE", "encode_event", "encode_priming"]

#: A comment line: ignored by every client, seen by every proxy that counts idle time.
KEEP_ALIVE = b": keep-alive\n\n"


def encode_event(message: bytes, *, event_id: bytes | None = None, kind: bytes = b"message") -> bytes:
    """Return one JSON-RPC message as an event.

    Args:
        message: One line of JSON. A carriage return would end the line for an SSE parser; in JSON
            it can only be white space, so a space replaces it.
        event_id: Its id; None for an event that cannot be resumed from. No line end in it.
        kind: Its type.
    """
    if b"\r" in message:
        message = message.replace(b"\r", b" ")
    if event_id is None:
        return b"event: " + kind + b"\ndata: " + message + b"\n\n"
    return b"event: " + kind + b"\nid: " + event_id + b"\ndata: " + message + b"\n\n"


def encode_priming(event_id: bytes, *, retry: float) -> bytes:
    """Return an event that tells the client where to resume, and carries no message.

    Args:
        event_id: Its id.
        retry: Seconds that the client shall wait before it comes back.
    """
    return b"id: %b\nretry: %d\ndata: \n\n" % (event_id, retry * 1000)
