"""Who sends this request, and what may they use? The interface to the edge, and the mode without proofs.

The edge hands over one header field and the peer's address, and gets an `Access` or an error; it learns
nothing of keys or tokens, so each way to authenticate is one more class behind the same interface.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from ..errors import Unauthenticated
from ..sessions import ANONYMOUS, Principal
from .bearer import challenge

__all__ = ["Access", "Authenticator", "NoAuthentication", "OnRevoked"]

#: Is told a principal whose proof is no longer good. Must not raise, and must not wait.
OnRevoked = Callable[[Principal], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """What a request may do.

    Attributes:
        principal: Who sends it.
        grant: Id of the key that proved it: public, for logs. Empty where there are no proofs.
        servers: Names of the servers that it may use; None: every server.
        expires: When the proof ends to be good, in seconds since the epoch; None: never.
    """

    principal: Principal
    grant: str = ""
    servers: frozenset[str] | None = None
    expires: float | None = None

    def may_use(self, server: str) -> bool:
        """Return whether the server may be used."""
        return self.servers is None or server in self.servers


class Authenticator(Protocol):
    """One way to tell who sends a request."""

    def recognise(self, authorization: bytes | None) -> Access | None:
        """Return what a request may do, if that is known without asking anybody; None: `authenticate` tells.

        Nobody is refused here, and no failure counted.
        """

    async def authenticate(self, authorization: bytes | None, peer: str) -> Access:
        """Return what a request may do. To be asked for each request: a session proves nothing.

        Args:
            authorization: The request's `Authorization` field as it came; None if there is none.
            peer: Address of the client.

        Raises:
            Unauthenticated: No proof, or none that is good.
            TooManyRequests: The same, once too often from this address.
        """

    def challenge(self, exc: Unauthenticated) -> bytes:
        """Return the `WWW-Authenticate` field of the answer to a failure."""

    def on_revoked(self, callback: OnRevoked) -> None:
        """Have a callback told each principal of whom a proof is revoked or has expired, from now on.

        What such a principal has running is to end at once. The callback does not say which proof it was:
        a principal's sessions do not depend on which of its keys is in use, so all of them end. A client
        with another good key opens new ones.
        """


class NoAuthentication:
    """Everybody is the same anonymous principal, and may use every server. For loopback."""

    _ACCESS = Access(principal=ANONYMOUS)

    def recognise(self, authorization: bytes | None) -> Access | None:  # noqa: ARG002 - not asked
        """Return the anonymous principal's access, whatever is presented."""
        return self._ACCESS

    async def authenticate(self, authorization: bytes | None, peer: str) -> Access:  # noqa: ARG002 - not asked
        """Return the anonymous principal's access, whatever is presented."""
        return self._ACCESS

    def challenge(self, exc: Unauthenticated) -> bytes:
        """Return a challenge; nobody fails here, so nobody sees it."""
        return challenge(exc)

    def on_revoked(self, callback: OnRevoked) -> None:
        """Nothing is ever revoked."""
