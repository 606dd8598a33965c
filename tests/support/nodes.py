"""A whole node with several servers in the process of the test, and clients that say who they are.

As `stdio_broker.broker` joins it, but with an authenticator and settings of the test's choice. A principal is
whoever a bearer names, or with `KeyAuthenticator` whoever has the key.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from stdio_broker.auth import Authenticator, KeyAuthenticator
from stdio_broker.auth import Settings as AuthSettings
from stdio_broker.auth.credentials import FileCredentials
from stdio_broker.auth.database import Database
from stdio_broker.auth.keys import KEY_ISSUER
from stdio_broker.auth.store import KeyStore
from stdio_broker.bridge import Settings as BridgeSettings
from stdio_broker.broker.node import Node
from stdio_broker.config import Configuration, ServerConfiguration
from stdio_broker.http import App, HttpServer, bind
from stdio_broker.http import Settings as HttpSettings
from stdio_broker.sessions import QuotaSettings, ServerRecipe
from stdio_broker.sessions import Settings as SessionSettings
from stdio_broker.sessions.credentials import CredentialSource
from stdio_broker.sessions.templates import EnvironmentTemplate
from stdio_broker.supervisor import Config, Isolation, Supervisor
from tests.support.edge import UNBOUNDED, child_config
from tests.support.eras import ISSUER, AnyClient, NamedPrincipals
from tests.support.mcp_client import ANSWER_TIMEOUT, COMMENT, EventStream, McpClient, Message
from tests.support.modern_client import EVERYTHING, ModernClient

__all__ = [
    "STREAMING",
    "TOKEN",
    "Logs",
    "ServingNode",
    "TokenFiles",
    "bearer_http",
    "key_authenticator",
    "key_store",
    "node_configuration",
    "recorded_logs",
    "report",
    "running_call",
    "server",
    "serving_node",
]

#: The variable in which a child finds the credential of its principal.
TOKEN = "TEST_TOKEN"  # noqa: S105 - a name

#: So that a call becomes a stream at once, and a test sees that it runs.
STREAMING = HttpSettings(keep_alive_interval=0.05)


def bearer_http(bearer: str | None) -> httpx.AsyncClient:
    """Return connections of a client that presents a bearer with every request; None presents nothing."""

    async def present(request: httpx.Request) -> None:
        if bearer is not None:
            request.headers["authorization"] = f"Bearer {bearer}"

    return httpx.AsyncClient(
        timeout=ANSWER_TIMEOUT,
        limits=httpx.Limits(max_connections=None),
        trust_env=False,
        verify=False,  # noqa: S501 - there is no TLS, and to read the certificates takes 40 ms
        event_hooks={"request": [present]},
    )


@dataclass(frozen=True, slots=True)
class ServingNode:
    """A running node.

    Attributes:
        url: Where it listens, without a path.
        node: Its servers.
        app: What the HTTP server calls.
        supervisor: Its children.
        configuration: What it was started with.
    """

    url: str
    node: Node
    app: App
    supervisor: Supervisor
    configuration: Configuration

    @property
    def children(self) -> int:
        """How many children are not done."""
        return self.supervisor.statistics().running

    def url_of(self, name: str) -> str:
        """Return the endpoint of a server."""
        return f"{self.url}/{name}/mcp"

    def legacy(self, name: str, bearer: str | None) -> McpClient:
        """Return a client of a server, without a session."""
        return McpClient(self.url_of(name), bearer_http(bearer))

    def modern(self, name: str, bearer: str | None, *, capabilities: Message | None = None) -> ModernClient:
        """Return a client of a server that can be asked everything, if nothing else is said."""
        given = EVERYTHING if capabilities is None else capabilities
        return ModernClient(self.url_of(name), bearer_http(bearer), capabilities=given)

    async def get(self, path: str) -> httpx.Response:
        """Return the answer to somebody who presents nothing."""
        async with bearer_http(None) as http:
            return await http.get(self.url + path)


def server(
    name: str = "alpha",
    config: Config | None = None,
    *,
    credentials: CredentialSource | None = None,
    environment: Mapping[str, str] | None = None,
    settings: SessionSettings | None = None,
    bridge: BridgeSettings | None = None,
    principals: frozenset[str] | None = None,
) -> ServerConfiguration:
    """Return a server whose children are `mcp_child.py` with the credential of their principal in `TOKEN`.

    Args:
        name: Of the server, and of its path.
        config: How a child of it is run.
        credentials: Where the principals' credentials are; None if it needs none.
        environment: Further templates.
        settings: Bounds of its sessions.
        bridge: Bounds of its bridges.
        principals: Who may use it; None is everybody.
    """
    token = {} if credentials is None else {TOKEN: "${credential.token}"}
    variables = {**token, **(environment or {})}
    return ServerConfiguration(
        recipe=ServerRecipe(
            name,
            config or child_config(),
            environment=EnvironmentTemplate.parse(variables) if variables else None,
            credentials=credentials,
        ),
        path=f"/{name}/mcp",
        sessions=settings or SessionSettings(),
        bridge=bridge or BridgeSettings(),
        isolation=Isolation(level="none"),
        principals=principals,
    )


def node_configuration(
    *servers: ServerConfiguration,
    quotas: QuotaSettings | None = None,
    http: HttpSettings | None = None,
) -> Configuration:
    """Return a node with these servers; nothing of the node's own is bounded if nothing is said."""
    return Configuration(
        host="127.0.0.1",
        port=0,
        drain_grace=10.0,
        servers=servers,
        http=http or HttpSettings(),
        quotas=quotas or UNBOUNDED,
    )


@contextlib.asynccontextmanager
async def serving_node(
    configuration: Configuration,
    *,
    authenticator: Authenticator | None = None,
) -> AsyncIterator[ServingNode]:
    """Serve until the block is left.

    Leaving it fails if an error was logged meanwhile: nothing that a client or a child does is one.

    Args:
        configuration: What is served; its part on authentication is not looked at.
        authenticator: Tells who asks; None believes whoever names a principal as a bearer.
    """
    who = authenticator or NamedPrincipals()
    listener = bind(configuration.host, configuration.port)
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    app = App(who, configuration.http)
    with recorded_logs(logging.ERROR) as errors:
        async with (
            Supervisor() as supervisor,
            HttpServer(app, listener, configuration.http).serving(),
            Node(configuration, supervisor, app, who) as node,
        ):
            await node.start()
            yield ServingNode(url, node, app, supervisor, configuration)
    assert not errors.lines, "\n".join(errors.lines)


@contextlib.asynccontextmanager
async def running_call(
    client: AnyClient, tool: str = "wait", **arguments: object
) -> AsyncIterator[EventStream]:
    """Call a tool, and have the child at work on it; for a node with `STREAMING`."""
    async with client.stream(client.tool(tool, **arguments)) as stream:
        while await stream.next() != COMMENT:
            pass
        yield stream


# Who asks.


@contextlib.asynccontextmanager
async def key_store(directory: Path) -> AsyncIterator[KeyStore]:
    """Open the keys in a SQLite file in this directory, as `stdio-broker key` does."""
    async with Database(_url_in(directory)) as database:
        yield KeyStore(database)


@contextlib.asynccontextmanager
async def key_authenticator(
    directory: Path, settings: AuthSettings | None = None
) -> AsyncIterator[KeyAuthenticator]:
    """Authenticate by the keys in this directory; those that are there already are known at once."""
    async with (
        Database(_url_in(directory)) as database,
        KeyAuthenticator(KeyStore(database), settings or AuthSettings(mode="keys")) as authenticator,
    ):
        yield authenticator


def _url_in(directory: Path) -> str:
    return f"sqlite:///{directory / 'keys.db'}"


class TokenFiles:
    """Credentials in files, one for each principal of a server.

    Args:
        directory: Where they are.
        name: The server's name.
        keys: Whether principals prove themselves by keys.

    Attributes:
        source: What the server reads them with.
    """

    def __init__(self, directory: Path, name: str, *, keys: bool = False) -> None:
        self._folder = directory / name
        self._folder.mkdir()
        issuer = KEY_ISSUER if keys else ISSUER
        self.source = FileCredentials(name, str(self._folder), issuer=issuer)

    def write(self, subject: str, token: str, *, mode: int = 0o600) -> None:
        """Give a principal a credential, or another one, as operators should: by renaming."""
        new = self._folder.parent / f"{self._folder.name}.new"
        new.touch()
        new.chmod(mode)
        new.write_text(f"{token}\n")
        new.rename(self._folder / subject)

    def delete(self, subject: str) -> None:
        """Take the credential of a principal away."""
        (self._folder / subject).unlink()


# What is logged.


@dataclass(slots=True)
class Logs:
    """What was logged, each record with all of its facts.

    Attributes:
        lines: One for each record.
    """

    lines: list[str] = field(default_factory=list)


class _Recorder(logging.Handler):
    def __init__(self, level: int) -> None:
        super().__init__(level)
        self.logs = Logs()

    def emit(self, record: logging.LogRecord) -> None:
        self.logs.lines.append(f"{logging.Formatter().format(record)} {vars(record)!r}")


@contextlib.contextmanager
def recorded_logs(level: int) -> Iterator[Logs]:
    """Record what is logged within the block; below WARNING, what is logged by us only."""
    recorder = _Recorder(level)
    ours = logging.getLogger("stdio_broker" if level < logging.WARNING else None)
    before = ours.level
    ours.addHandler(recorder)
    if level < logging.WARNING:
        ours.setLevel(level)
    try:
        yield recorder.logs
    finally:
        ours.removeHandler(recorder)
        ours.setLevel(before)


def report(text: str) -> None:
    """Tell a number that was measured; `pytest -rP` shows it."""
    print(text)  # noqa: T201 - see above
