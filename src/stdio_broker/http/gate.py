"""Who asks, and may they? Asked of every request, before its body is read: a session proves nothing.

Source: MCP 2025-11-25 and 2026-07-28, basic/authorization; RFC 6750; identity reference, R4 and R14.
"""

from collections.abc import Set as AbstractSet

from ..auth import Access, Authenticator
from ..errors import BrokerError, Forbidden, Unauthenticated
from ..sessions import Principal
from .wire import HttpRequest

__all__ = ["Gate", "authenticate"]


class Gate:
    """The way to one server.

    Args:
        authenticator: Tells who asks.
        server: Which server.
        principals: Names of those who may use it; None: everybody who is known. May be changed.
    """

    def __init__(
        self, authenticator: Authenticator, server: str, principals: AbstractSet[str] | None = None
    ) -> None:
        self._authenticator = authenticator
        self._server = server
        self.principals = principals

    async def admit(self, request: HttpRequest) -> Principal:
        """Return who asks.

        Raises:
            Unauthenticated: Nobody we know; the challenge is among the answer's headers.
            TooManyRequests: The same, once too often from one address.
            Forbidden: Somebody who may not use this server.
        """
        access = await authenticate(self._authenticator, request)
        if not self.lets_through(access):
            raise Forbidden(self._server)
        return access.principal

    def recognise(self, request: HttpRequest) -> Principal | None:
        """Return who asks, if that is known at once, and they may use the server; None: `admit` tells."""
        access = self._authenticator.recognise(request.header(b"authorization"))
        return access.principal if access is not None and self.lets_through(access) else None

    async def admits(self, request: HttpRequest) -> bool:
        """Return whether who was admitted would be again: a key may have been revoked since."""
        try:
            await self.admit(request)
        except BrokerError:
            return False
        return True

    def lets_through(self, access: Access) -> bool:
        """Return whether somebody may use the server."""
        allowed = self.principals is None or access.principal.subject in self.principals
        return allowed and access.may_use(self._server)


async def authenticate(authenticator: Authenticator, request: HttpRequest) -> Access:
    """Return who asks, and what they may do.

    Raises:
        Unauthenticated: As `Gate.admit`.
        TooManyRequests: As `Gate.admit`.
    """
    try:
        return await authenticator.authenticate(request.header(b"authorization"), request.peer)
    except Unauthenticated as exc:
        request.add_header(b"www-authenticate", authenticator.challenge(exc))
        raise
