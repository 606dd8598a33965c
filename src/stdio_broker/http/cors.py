"""What a browser wants to hear before it lets a page use us. Source: WHATWG Fetch, "CORS protocol".

Only for pages that the Origin guard has let through: without these fields the browser would send
their requests and then keep the answers from them.
"""

import re

from .wire import HttpRequest

__all__ = ["allow_page", "answer_preflight", "is_preflight"]

_METHODS = b"POST, GET, DELETE"
_REQUEST_HEADERS = (
    b"accept",
    b"authorization",
    b"content-type",
    b"last-event-id",
    b"mcp-method",
    b"mcp-name",
    b"mcp-protocol-version",
    b"mcp-session-id",
)
# Arguments that a tool wants mirrored: the names are the server's, and we do not know them (MCP
# 2026-07-28, basic/transports/streamable-http). A `*` would not cover Authorization, and browsers
# ignore it for requests with credentials. What is let through is a token (RFC 9110, 5.6.2).
_PARAM_HEADER = re.compile(rb"mcp-param-[a-z0-9!#$%&'*+.^_`|~-]+")
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


def answer_preflight(request: HttpRequest) -> None:
    """Say what a page may send."""
    request.answer(
        204,
        (
            (b"access-control-allow-methods", _METHODS),
            (b"access-control-allow-headers", b", ".join((*_REQUEST_HEADERS, *_param_headers(request)))),
            (b"access-control-max-age", _MAX_AGE_SECONDS),
        ),
    )


def _param_headers(request: HttpRequest) -> list[bytes]:
    """Return the header fields for arguments that a page wants to send."""
    asked = (request.header(b"access-control-request-headers") or b"").lower()
    names = dict.fromkeys(name.strip() for name in asked.split(b","))
    return [name for name in names if _PARAM_HEADER.fullmatch(name)]
