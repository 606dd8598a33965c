"""Access, and the mode in which everybody has it."""

import pytest

from stdio_broker.auth import Access, Authenticator, NoAuthentication
from stdio_broker.errors import Unauthenticated
from stdio_broker.sessions import ANONYMOUS, Principal

ALICE = Principal(issuer="keys", subject="alice")


@pytest.mark.parametrize(
    ("servers", "allowed"),
    [(None, True), (frozenset(), False), (frozenset({"git"}), False), (frozenset({"forgejo"}), True)],
)
def test_an_access_is_to_all_servers_or_to_those_it_names(
    servers: frozenset[str] | None, *, allowed: bool
) -> None:
    """Issue 5: a key has servers."""
    assert Access(principal=ALICE, servers=servers).may_use("forgejo") is allowed


@pytest.mark.parametrize("authorization", [None, b"", b"Bearer anything", b"\xff"])
async def test_without_authentication_everybody_is_anonymous(authorization: bytes | None) -> None:
    """Issue 5: mode `none`."""
    authenticator: Authenticator = NoAuthentication()
    access = await authenticator.authenticate(authorization, "192.0.2.1")
    assert access == Access(principal=ANONYMOUS, grant="", servers=None, expires=None)


async def test_without_authentication_nothing_is_revoked() -> None:
    """But a broker need not know which mode it is in."""
    authenticator: Authenticator = NoAuthentication()
    authenticator.on_revoked(lambda principal: pytest.fail(f"told of {principal}"))
    assert authenticator.challenge(Unauthenticated(presented=False)) == b'Bearer realm="stdio-broker"'
