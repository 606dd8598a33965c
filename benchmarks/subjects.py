"""What is measured: the broker, its peers, and what bounds it from above.

What the notes of a peer say was seen with this benchmark, or is in its source in the version that is locked.
"""

import json
import secrets
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypeAlias

from benchmarks import peers
from benchmarks.tools import Tools

__all__ = [
    "BRIDGE",
    "BROKER",
    "CEILING",
    "CELLS",
    "CONSTANT",
    "EDGE",
    "Subject",
    "installed",
    "subjects",
]

BROKER = "stdio-broker"
CONSTANT = "uvicorn, constant"
EDGE = "our edge, constant"
BRIDGE = "C bridge"
CEILING = "C, no child"
# The broker between a client and a server, by the eras of the two; `BROKER` is legacy to legacy.
CELLS = {
    "modern to legacy": ("modern", "legacy"),
    "legacy to modern": ("legacy", "modern"),
    "modern to modern": ("modern", "modern"),
}

Kind: TypeAlias = Literal["broker", "peer", "limit"]
Child: TypeAlias = Literal["per session", "shared", "per request", "none"]

_CALLS = frozenset({"one", "many"})
_ALL = _CALLS | {"idle", "sessions", "cycles", "large", "beside"}
# What is beside a peer's large messages nobody asks for, and it takes a quarter of an hour.
_OF_PEERS = _ALL - {"beside"}

# As long as the child's answer to the echo that the generator sends.
_CONSTANT_ANSWER = json.dumps(
    {"jsonrpc": "2.0", "id": 1, "result": {"content": [{"type": "text", "text": "." * 32}]}},
    separators=(",", ":"),
)
_FASTMCP = str(Path(__file__).resolve().parent / "peers" / "fastmcp_proxy.py")
_NOT_HAD = (
    "TBXark/mcp-proxy (Go) is left out: the module proxy refused it when the others were pinned, so there "
    "was no version to pin, and no way to check how it is started"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """One column of the comparison: a program that serves MCP, or pretends to.

    Args:
        argv: Starts it; it prints its URL on stdout when it is ready, unless it has a `path`.
        kind: Peers are what users would take instead, limits are what the machine allows.
        child: Whose a process behind it is.
        era: What the generator speaks to it: `legacy` or `modern`.
        scenarios: The names of those that mean something for it.
        share: How much of the measured time its runs get.
        constant: The one answer it gives to everything; None: it speaks MCP.
        path: Where it serves MCP, if it prints no URL: then `{port}` in its argv is a free port.
        install: What `peers.install` has to install before it can be started.
        environment: What it needs beside ours.
        notes: What it does wrong, and why scenarios are left out, one sentence each.
    """

    name: str
    argv: tuple[str, ...]
    kind: Kind
    child: Child
    era: str = "legacy"
    scenarios: frozenset[str] = _CALLS
    share: float = 1.0
    constant: str | None = None
    path: str | None = None
    install: str | None = None
    environment: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def subjects(tools: Tools, tag: str) -> tuple[Subject, ...]:
    """Return everything that can be measured here; the tag goes into the command line of every child."""
    # In this order the broker runs next to all that it is compared with in ratios.
    return (*_peers((*tools.child, "legacy", tag), (*tools.child, "modern", tag)), *_own(tools, tag))


def installed(chosen: Sequence[Subject]) -> tuple[tuple[Subject, ...], tuple[str, ...]]:
    """Install the peers among the subjects; return what can be measured, and what the reader must know."""
    reasons = {name: peers.install(name) for name in dict.fromkeys(s.install for s in chosen) if name}
    left_out = [f"{s.name} is left out: {reason}" for s in chosen if (reason := reasons.get(s.install or ""))]
    kept = tuple(s for s in chosen if not reasons.get(s.install or ""))
    missing = (_NOT_HAD,) if reasons else ()
    return kept, (*left_out, *missing, *(f"{s.name}: {note}" for s in kept for note in s.notes))


def _own(tools: Tools, tag: str) -> list[Subject]:
    broker = (sys.executable, "-m", "stdio_broker", "run", "--port", "0", "--log-level", "warning", "--")

    def between(server: str) -> tuple[str, ...]:
        # Which refuses the other era, so that no subject can turn out to be another one.
        return (*broker, *tools.child, server, tag)

    # Half the time for what is compared with nothing else, as there is much of it.
    found = [
        Subject(
            name=name,
            argv=between(server),
            kind="broker",
            # A modern client has no session: its child is its user's, and here all are the same user.
            child="per session" if client == "legacy" else "shared",
            era=client,
            share=0.5,
        )
        for name, (client, server) in CELLS.items()
    ]
    found.append(
        Subject(name=BROKER, argv=between("legacy"), kind="broker", child="per session", scenarios=_ALL)
    )
    for name, module in ((EDGE, "benchmarks.edge"), (CONSTANT, "benchmarks.constant")):
        constant = (sys.executable, "-m", module, _CONSTANT_ANSWER)
        found.append(Subject(name=name, argv=constant, kind="limit", child="none", constant=_CONSTANT_ANSWER))
    if tools.bridge:
        argv = (*tools.bridge, *tools.child, "legacy", tag)
        found.append(Subject(name=BRIDGE, argv=argv, kind="limit", child="per session", scenarios=_ALL))
    if tools.answer:
        served = _CALLS | {"sessions", "cycles"}
        found.append(Subject(name=CEILING, argv=tools.answer, kind="limit", child="none", scenarios=served))
    return found


def _peers(legacy: tuple[str, ...], modern: tuple[str, ...]) -> list[Subject]:
    """Return the peers, each with what makes it fast: no access log, and JSON answers if it can."""
    return [
        Subject(
            name="mcp-proxy",
            argv=(
                peers.script("mcp-proxy", "mcp-proxy"),
                *("--port", "{port}", "--log-level", "ERROR", "--", *legacy),
            ),
            kind="peer",
            child="shared",
            scenarios=_OF_PEERS,
            path="/mcp",
            install="mcp-proxy",
            notes=("all sessions share one child, and so its state",),
        ),
        Subject(
            name="fastmcp",
            argv=(peers.script("fastmcp", "python"), _FASTMCP, "{port}", *legacy),
            kind="peer",
            child="shared",
            scenarios=_OF_PEERS,
            path="/mcp",
            install="fastmcp",
            notes=("all sessions share one child, and so its state",),
        ),
        Subject(
            name="contextforge translate",
            argv=(
                peers.script("mcp-contextforge-gateway", "python"),
                *("-m", "mcpgateway.translate", "--stdio", shlex.join(legacy), "--expose-streamable-http"),
                *("--port", "{port}", "--jsonResponse", "--logLevel", "error"),
            ),
            kind="peer",
            child="shared",
            scenarios=_OF_PEERS,
            path="/mcp",
            install="mcp-contextforge-gateway",
            # It wants them for what its translate module does not do, and refuses values that look guessable.
            environment={
                name: secrets.token_urlsafe(48) for name in ("JWT_SECRET_KEY", "AUTH_ENCRYPTION_SECRET")
            },
            notes=(
                "it knows no sessions: an answer goes to any client that waits for the same id",
                "all clients share one child, and so its state",
            ),
        ),
        Subject(
            name="mcp-streamablehttp-proxy",
            argv=(
                peers.script("mcp-streamablehttp-proxy", "mcp-streamablehttp-proxy"),
                *("--port", "{port}", "--log-level", "error", *legacy),
            ),
            kind="peer",
            child="per session",
            scenarios=_OF_PEERS,
            path="/mcp",
            install="mcp-streamablehttp-proxy",
            notes=("it answers 405 to DELETE, and keeps the child of every session for 5 minutes",),
        ),
        _supergateway("supergateway", "--stateful", legacy, child="per session", scenarios=_OF_PEERS),
        _supergateway("supergateway, stateless", "--no-stateful", legacy, child="per request", share=0.5),
        _supergateway(
            "supergateway, modern", "--no-stateful", modern, child="per request", era="modern", share=0.5
        ),
    ]


def _supergateway(
    name: str,
    mode: str,
    command: tuple[str, ...],
    *,
    child: Child,
    scenarios: frozenset[str] = _CALLS,
    era: str = "legacy",
    share: float = 1.0,
) -> Subject:
    script = str(peers.folder(peers.NPM) / "node_modules" / "supergateway" / "dist" / "index.js")
    options = ("--outputTransport", "streamableHttp", mode, "--port", "{port}", "--logLevel", "none")
    everywhere = "it has no option for the address, and listens on every interface while it is measured"
    each = ("it starts a child for every request, so there are no sessions to hold or to close",)
    return Subject(
        name=name,
        argv=(peers.node(), script, "--stdio", shlex.join(command), *options),
        kind="peer",
        child=child,
        era=era,
        scenarios=scenarios,
        share=share,
        path="/mcp",
        install=peers.NPM,
        notes=(everywhere, *(each if child == "per request" else ())),
    )
