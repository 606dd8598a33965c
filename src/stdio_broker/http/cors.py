"""What a browser wants to hear before it lets a page use us. Source: WHATWG Fetch, "CORS protocol".

Only for pages that the Origin guard has let through: without these fields the browser would send
their requests and then keep the answers from them.
"""

from .wire import HttpRequest

__all__ = ["allow_page", "answer_preflight", "is_preflight"]

_METHODS = b"POST, GET, DELETE"
_REQUEST_HEADERS = b"accept, authorization, content-type, last-event-id, mcp-protocol-version, mcp-session-id"
_ANSWER_HEADERS = b"mcp-session-id, retry-after, www-authenticate"
_MAX_AGE_SECONDS = b"600"


def allow_page(request: HttpRequest) -> None:
    """Let the page that sent the request read the answer; nothing for a client that is no browser."""
    origin = request.header(b"origin")
    if origin is not None:
        request.add_header(b"access-control-allow-origin", origin)
        request.add_header(b"access-control-expose-headers", _ANSWER_HEADERS)
        request.add_header(b"vary", b"origin")


def is_preflight(request: HttpRequest) -> bool:
    """Whether a browser asks what a page may send."""
    return (
        request.method == "OPTIONS"
        and request.header(b"origin") is not None
        and request.header(b"access-control-request-method") is not None
    )


async def answer_preflight(request: HttpRequest) -> None:
    """Say what a page may send."""
    await request.answer(
        204,
        (
            (b"access-control-allow-methods", _METHODS),
            (b"access-control-allow-headers", _REQUEST_HEADERS),
            (b"access-control-max-age", _MAX_AGE_SECONDS),
        ),
    )
