"""The `Authorization: Bearer` field, and the challenge to whoever sends none. Pure.

Source: RFC 6750, sections 2.1 and 3; RFC 9110, section 11.
"""

import re

from ..errors import Unauthenticated

__all__ = ["MAX_TOKEN_BYTES", "bearer_token", "challenge"]

#: Longest token that is looked at. Ours are far shorter; a JWT of a large company is not.
MAX_TOKEN_BYTES = 8192

# RFC 6750: credentials = "Bearer" 1*SP b64token; the scheme in any case (RFC 9110, section 11.1). A
# repeated field is handed to us joined by a comma, which no token has.
_CREDENTIALS = re.compile(rb"bearer +([A-Za-z0-9._~+/-]{1,%d}=*)" % MAX_TOKEN_BYTES, re.IGNORECASE)


def bearer_token(authorization: bytes | None) -> bytes:
    """Return the token that the field carries.

    Raises:
        Unauthenticated: There is none. It was `presented` if the field speaks of a bearer at all: another
            scheme is no proof, but a client that knows no better (RFC 6750, section 3.1).
    """
    field = authorization or b""
    match = _CREDENTIALS.fullmatch(field)
    if match is None or len(match[1]) > MAX_TOKEN_BYTES:
        raise Unauthenticated(presented=b"bearer" in field.lower())
    return match[1]


def challenge(exc: Unauthenticated) -> bytes:
    """Return the `WWW-Authenticate` field. It is constant: it tells a stranger nothing about any key.

    Without a proof there is no error code (RFC 6750, section 3.1).
    """
    if exc.presented:
        return b'Bearer realm="stdio-broker", error="invalid_token"'
    return b'Bearer realm="stdio-broker"'
