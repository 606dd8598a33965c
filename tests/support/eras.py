"""The four cells, clients and children of either era, and several principals in front of one endpoint.

A cell is a kind of client and a kind of child. What the clients of both eras can do is here once, for both.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any, TypeAlias

import httpx

from stdio_broker.auth import Access, NoAuthentication
from stdio_broker.bridge import LegacyChild, ModernChild
from stdio_broker.bridge import Settings as BridgeSettings
from stdio_broker.http import Settings as HttpSettings
from stdio_broker.protocol.jsonrpc import Request, parse_body
from stdio_broker.protocol.modern import ModernRequest, read_request
from stdio_broker.sessions import ANONYMOUS, Principal
from stdio_broker.sessions import Settings as SessionSettings
from stdio_broker.supervisor import Config
from tests.support.edge import Edge, child_config, serving
from tests.support.mcp_client import ANSWER_TIMEOUT, REVISION, McpClient, Message
from tests.support.modern_client import EVERYTHING, ModernClient

__all__ = [
    "CELLS",
    "LEGACY_TO_LEGACY",
    "LEGACY_TO_MODERN",
    "MODERN_TO_LEGACY",
    "MODERN_TO_MODERN",
    "AnyClient",
    "Cell",
    "answer_of",
    "legacy_client",
    "modern_client",
    "open_session",
    "parsed",
    "request_of",
    "serving_principals",
    "shared_child",
    "with_token",
]

AnyClient: TypeAlias = McpClient | ModernClient

#: Who vouches for the principals of tests.
ISSUER = "https://login.example.com"


@dataclass(frozen=True, slots=True)
class Cell:
    """A kind of client and a kind of child.

    Attributes:
        client: "legacy" or "modern".
        child: The same.
    """

    client: str
    child: str

    def __str__(self) -> str:
        return f"{self.client} to {self.child}"

    def config(self, *modes: str, **options: Any) -> Config:  # noqa: ANN401 - passed on
        """Return how to run a child of this cell."""
        return child_config(f"era={self.child}", *modes, **options)

    @contextlib.asynccontextmanager
    async def connected(self, edge: Edge, *, version: str = REVISION) -> AsyncIterator[AnyClient]:
        """Connect a client of this cell that can be asked everything; a legacy one has a session."""
        if self.client == "modern":
            async with ModernClient(edge.url, capabilities=EVERYTHING) as modern:
                yield modern
        else:
            async with McpClient(edge.url) as legacy:
                yield await open_session(legacy, version)


LEGACY_TO_LEGACY = Cell("legacy", "legacy")
LEGACY_TO_MODERN = Cell("legacy", "modern")
MODERN_TO_LEGACY = Cell("modern", "legacy")
MODERN_TO_MODERN = Cell("modern", "modern")
CELLS = (LEGACY_TO_LEGACY, LEGACY_TO_MODERN, MODERN_TO_LEGACY, MODERN_TO_MODERN)


async def open_session(client: McpClient, version: str = REVISION) -> McpClient:
    """Open a session of a client that can be asked everything."""
    answer = await client.post(client.initialize_request(version, capabilities=EVERYTHING))
    assert answer.status_code == 200, f"{answer.status_code}: {answer.text}"
    client.session_id, client.version = answer.headers["mcp-session-id"], version
    assert (await client.notify("notifications/initialized")).status_code == 202
    return client


def request_of(client: AnyClient, method: str, **params: object) -> Message:
    """Return a request in the client's own era."""
    if isinstance(client, ModernClient):
        return client.request(method, params)
    return client.request(method, params=params)


def with_token(message: Message, token: str | int) -> Message:
    """Return a request that wants progress under a token."""
    meta = {**message["params"].get("_meta", {}), "progressToken": token}
    return {**message, "params": {**message["params"], "_meta": meta}}


def answer_of(response: httpx.Response) -> tuple[int, dict[str, str], Any]:
    """Return a whole answer, less the time of day, to be compared with another one."""
    headers = {name: value for name, value in response.headers.items() if name != "date"}
    is_json = headers.get("content-type") == "application/json"
    return response.status_code, headers, json.loads(response.text) if is_json else response.text


async def shared_child(edge: Edge, *, capabilities: Message | None = None) -> ModernChild | LegacyChild:
    """Return the child that serves the requests without a session, of clients with these capabilities.

    Args:
        edge: Where.
        capabilities: What they declare; None is everything.
    """
    given = EVERYTHING if capabilities is None else capabilities
    async with ModernClient(edge.url, capabilities=given) as client:
        request = parsed(client.request("tools/list"))
    return await edge.sessions.leases.child(ANONYMOUS, request)


def parsed(message: Message) -> ModernRequest:
    """Return a modern request as the endpoint reads it."""
    request = parse_body(json.dumps(message).encode())
    assert isinstance(request, Request)
    return read_request(request)


# Several principals.


class NamedPrincipals(NoAuthentication):
    """Believes whoever names a principal as a bearer."""

    def recognise(self, authorization: bytes | None) -> Access:
        """Return the access of the principal that the field names."""
        assert authorization is not None, "a request without a principal"
        return Access(principal=Principal(ISSUER, authorization.removeprefix(b"Bearer ").decode()))

    async def authenticate(self, authorization: bytes | None, peer: str) -> Access:
        """Return the access of the principal that the field names."""
        assert authorization is not None, f"a request without a principal from {peer}"
        return self.recognise(authorization)


@contextlib.asynccontextmanager
async def serving_principals(
    config: Config | None,
    *,
    http: HttpSettings | None = None,
    settings: SessionSettings | None = None,
    bridge: BridgeSettings | None = None,
    **options: Any,  # noqa: ANN401 - passed on
) -> AsyncIterator[Edge]:
    """Serve as `serving` does, to the clients of `legacy_client` and `modern_client`."""
    async with serving(
        config, http=http, settings=settings, bridge=bridge, authenticator=NamedPrincipals(), **options
    ) as edge:
        yield edge


def legacy_client(edge: Edge, subject: str) -> McpClient:
    """Return a client of a principal, without a session."""
    return McpClient(edge.url, _http_of(subject))


def modern_client(edge: Edge, subject: str, *, capabilities: Message | None = None) -> ModernClient:
    """Return a client of a principal that can be asked everything, if nothing else is said."""
    given = EVERYTHING if capabilities is None else capabilities
    return ModernClient(edge.url, _http_of(subject), capabilities=given)


def _http_of(subject: str) -> httpx.AsyncClient:
    async def name(request: httpx.Request) -> None:
        request.headers["authorization"] = f"Bearer {subject}"

    return httpx.AsyncClient(
        timeout=ANSWER_TIMEOUT,
        limits=httpx.Limits(max_connections=None),
        trust_env=False,
        event_hooks={"request": [name]},
    )
