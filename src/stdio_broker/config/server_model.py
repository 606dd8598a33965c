"""A `[servers.NAME]` table of the configuration file, as classes: each key with its default, and why."""

# ruff: noqa: RUF012 - pydantic copies a default

from typing import Annotated, Literal

from pydantic import Discriminator, Field, Tag

from ..bridge import Settings as BridgeSettings
from ..sessions import Settings as SessionSettings
from ..supervisor import Config as ChildConfig
from ..supervisor.isolation import Isolation, IsolationLevel
from .credential_model import Credential
from .isolation_model import ChildLimits, IsolationTable
from .keys import LIST, TABLE, TEXT, Count, Grace, Seconds, Size, Table, Value, about, kind_of

__all__ = ["MAX_NAME_CHARS", "NAME_PATTERN", "Server"]

#: What a server can be called: it is a part of a URL.
NAME_PATTERN = "[a-z0-9][a-z0-9-]*"
MAX_NAME_CHARS = 64

_SESSIONS = SessionSettings()
_BRIDGE = BridgeSettings()
_CHILD = ChildConfig(cmd=("default",))


class Server(Table):
    """A stdio MCP server. Each session, and each principal that needs no session, gets a child of it."""

    command: Annotated[
        str,
        about(
            "The program. A name is looked up on the PATH that the child sees; what has a slash in it is a "
            "path.",
            why="No shell is involved, and no template is allowed: what a user brings must not choose what "
            "is executed.",
        ),
    ]
    args: Annotated[
        list[str],
        Field(repr=False),
        about(
            "Its arguments.",
            why="No template is allowed here either: everybody on the machine can see the arguments of a "
            "process.",
        ),
    ] = []
    env: Annotated[
        dict[str, Value],
        Field(repr=False),
        about(
            "Variables for its children. A value is a template (`${credential.token}`, `${principal.name}`, "
            "`${principal.issuer}`, `${secret:NAME}`, `$$` for a dollar sign), or where it is: "
            '`{file = "PATH"}`, `{env = "NAME"}`.',
            why="The environment is the one place that only the child and its user can see.",
        ),
    ] = {}
    inherit_env: Annotated[
        Annotated[Literal["minimal"], Tag(TEXT)] | Annotated[list[str], Tag(LIST)],
        Discriminator(kind_of),
        about(
            'Which of the broker\'s own variables its children see: "minimal" (HOME, LANG, LC_*, LOGNAME, '
            "PATH, SHELL, SSL_CERT_DIR, SSL_CERT_FILE, TERM, TMPDIR, TZ, USER), or a list of names, in which "
            "an * at the end stands for the rest.",
            why='The broker\'s environment holds secrets of others; "all" is refused.',
        ),
    ] = "minimal"
    cwd: Annotated[
        str | None,
        about(
            "Its working directory. If not given: the broker's.",
            why="Most servers do not care. No template is allowed: a user's name must not choose a "
            "directory.",
        ),
    ] = None
    principals: Annotated[
        list[str] | None,
        about(
            "Names of those who may use it. If not given: everybody who is authenticated.",
            why="A key can be limited to servers too; this is the list that stands beside the server.",
        ),
    ] = None
    credential: Annotated[
        Credential | None,
        about(
            "Where `${credential.token}` comes from, for each principal. If not given: from nowhere, and no "
            "template may use it.",
            why="Who has none gets an error that says so, never somebody else's.",
        ),
    ] = None
    isolation: Annotated[
        Annotated[IsolationLevel, Tag(TEXT)] | Annotated[IsolationTable, Tag(TABLE)],
        Discriminator(kind_of),
        about(
            "What keeps its children from the rest of the machine: a level, or a table with the level and "
            "its options.",
            why='"limits" costs nothing and works everywhere. What this machine cannot do is refused, never '
            "weakened.",
        ),
    ] = Isolation().level
    limits: Annotated[
        ChildLimits,
        about("What each child may use.", why="One child that goes wild shall not take the machine with it."),
    ] = ChildLimits()
    recovery: Annotated[
        Literal["replay", "end"],
        about(
            '"replay": a session outlives its child; a fresh one is told again what the client has said to '
            'all of it. "end": the session ends with its child.',
            why="Most servers keep nothing in memory that clients rely on; for the others there is `end`.",
        ),
    ] = _SESSIONS.recovery
    max_sessions: Annotated[
        Count,
        about(
            "Sessions of this server at once; not more than `limits.max_sessions`.",
            unit="sessions",
            why="One server cannot use up the node.",
        ),
    ] = _SESSIONS.max_sessions
    max_children: Annotated[
        Count | None,
        about(
            "Children of this server at once. If not given: as many as sessions.",
            unit="processes",
            why="Idle sessions sleep without a child, so fewer are enough where sessions are long.",
        ),
    ] = _SESSIONS.max_children
    idle_timeout: Annotated[
        Seconds,
        about(
            "Time without a request after which a child is stopped that owes nobody anything. Its session "
            "sleeps until the next request, or ends where `recovery` is `end`.",
            unit="seconds",
            why="Half an hour of silence is a break; a child costs memory all the while.",
        ),
    ] = _SESSIONS.idle_timeout
    session_timeout: Annotated[
        Seconds,
        about(
            "Time without a request after which a session ends that sleeps.",
            unit="seconds",
            why="A night's sleep, and the next morning's meeting.",
        ),
    ] = _SESSIONS.session_timeout
    start_timeout: Annotated[
        Seconds,
        about(
            "Time from the start of a child to its answer to its first request.",
            unit="seconds",
            why="`npx` and `uvx` may download the server first.",
        ),
    ] = _SESSIONS.start_timeout
    drain_timeout: Annotated[
        Seconds,
        about(
            "What the calls of a child that is being replaced have to finish.",
            unit="seconds",
            why="A new credential is no reason to break off a call.",
        ),
    ] = _SESSIONS.drain_timeout
    refresh_interval: Annotated[
        Seconds,
        about(
            "Time between two looks at the credential of whoever has a child.",
            unit="seconds",
            why="A rotated credential reaches the running children without a restart.",
        ),
    ] = _SESSIONS.refresh_interval
    eof_grace: Annotated[
        Grace,
        about(
            "Time between closing a child's stdin and SIGTERM; 0 sends it at once.",
            unit="seconds",
            why="The end of its input is the only portable way to ask a server to exit.",
        ),
    ] = _CHILD.eof_grace
    stop_grace: Annotated[
        Grace,
        about(
            "Time between SIGTERM and SIGKILL; 0 kills at once.",
            unit="seconds",
            why="Long enough to write a file, short enough for a shutdown.",
        ),
    ] = _CHILD.stop_grace
    max_line_bytes: Annotated[
        Size,
        about(
            "Longest message of a child; a longer answer fails its call.",
            unit="bytes",
            why="As `http.max_body_bytes`: a value of 16 MiB crosses with its envelope, and more.",
        ),
    ] = _CHILD.max_line_bytes
    max_calls: Annotated[
        Count,
        about(
            "Calls of one session in flight at once.",
            unit="calls",
            why="A client with so many open calls is not waiting for answers.",
        ),
    ] = _BRIDGE.max_calls
    max_parked: Annotated[
        Count,
        about(
            "Calls of one principal that wait for the answers to a child's questions.",
            unit="calls",
            why="Each holds a child, and a person answers one at a time.",
        ),
    ] = _BRIDGE.max_parked
    park_timeout: Annotated[
        Seconds,
        about(
            "How long such a call waits.",
            unit="seconds",
            why="A person may be at lunch; a client that never comes back must not hold a child for ever.",
        ),
    ] = _BRIDGE.park_timeout
