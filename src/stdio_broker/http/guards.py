"""Who may talk to us, and in which form: checks on the head of a request, before its body is read.

Source: MCP 2025-11-25, basic/transports, "Security Warning" (Host, Origin) and "Sending Messages to
the Server" (Accept, Content-Type).
"""

import functools
import re
from collections.abc import Set as AbstractSet
from urllib.parse import urlsplit

from .wire import HttpRequest

__all__ = ["Refused", "check_accept", "check_content_type", "check_host", "check_origin", "host_of"]


#: Longest part of a header field that is shown. A host name has no more.
MAX_SHOWN_CHARS = 253

# No user name: what stands before an @ would look like our name, and is not.
_NETLOC = re.compile(r"(\[[0-9a-f:.]+\]|[^\[\]@:/\s]+)(?::[0-9]*)?")


class Refused(Exception):
    """The request is answered here and now.

    Attributes:
        status: HTTP status.
        headers: Extra header fields.
    """

    def __init__(self, status: int, message: str, headers: tuple[tuple[bytes, bytes], ...] = ()) -> None:
        super().__init__(message)
        self.status = status
        self.headers = headers


def check_host(request: HttpRequest, allowed: AbstractSet[str]) -> None:
    """Refuse a request that names another host than ours.

    Raises:
        Refused: 421.
    """
    host = host_of(request.header(b"host"))
    if host not in allowed:
        raise Refused(421, f"the Host header names {_shown(host)}, which is not served here")


def check_origin(request: HttpRequest, hosts: AbstractSet[str], origins: AbstractSet[str]) -> None:
    """Refuse a request of a web page that is not on an allowed host or origin.

    A client that is no browser sends no Origin.

    Raises:
        Refused: 403.
    """
    value = request.header(b"origin")
    if value is None:
        return
    origin = value.decode("latin-1").lower()
    if origin in origins:
        return
    try:
        parts = urlsplit(origin)
        host = host_of(parts.netloc.encode("latin-1"))
    except ValueError:
        host = None
    if host not in hosts:
        raise Refused(403, f"pages of the origin {_shown(origin)} may not use this endpoint")


def check_content_type(request: HttpRequest) -> None:
    """Refuse a body that is not JSON.

    Raises:
        Refused: 415.
    """
    value = request.header(b"content-type") or b""
    if _media_types(value) != {b"application/json"}:
        found = value.decode("latin-1")
        raise Refused(415, f"expected Content-Type: application/json, found {found!r}")


def check_accept(request: HttpRequest, *needed: bytes) -> None:
    """Refuse a client that does not take every media type that we may answer with.

    Raises:
        Refused: 406.
    """
    value = request.header(b"accept") or b""
    accepted = _media_types(value)
    for media_type in needed:
        if media_type in accepted:
            continue
        if not accepted.intersection((media_type.partition(b"/")[0] + b"/*", b"*/*")):
            expected = b", ".join(needed).decode()
            raise Refused(406, f"expected Accept: {expected}, found {value.decode('latin-1')!r}")


def _shown(value: str | None) -> str:
    """Return what a stranger has sent, for an answer and the log: no more than tells what it was."""
    return repr(value if value is None else value[:MAX_SHOWN_CHARS])


# A client sends the same few values with every request: the caches make the guards nearly free.


@functools.lru_cache(maxsize=256)
def _media_types(value: bytes) -> frozenset[bytes]:
    """Return the media types that a header field lists, without their parameters."""
    return frozenset(part.partition(b";")[0].strip().lower() for part in value.split(b","))


@functools.lru_cache(maxsize=256)
def host_of(netloc: bytes | None) -> str | None:
    """Return the host of `host:port`, lower case, IPv6 in brackets; None if it is anything else."""
    match = _NETLOC.fullmatch((netloc or b"").decode("latin-1").lower())
    return match[1] if match else None
