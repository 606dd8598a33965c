"""The command line: options in, exit codes out; nothing else.

Exit codes: 0 fine, 2 usage or configuration, 1 failed.
"""

import asyncio
import os
import shlex
import sys
from collections.abc import Callable
from typing import NoReturn

import click

from . import __version__
from .broker import Ready, Shutdown, serve
from .config import Configuration, run_configuration
from .errors import BrokerError, ConfigError
from .http import Settings as HttpSettings
from .sessions import ProbeFailed
from .sessions import Settings as SessionSettings
from .supervisor import Config as ChildConfig
from .supervisor import drop_inherited_ignores, raise_descriptor_limit
from .telemetry import LogFormat, LogLevel, configure_logging, printable

__all__ = ["main"]

_CHILD = ChildConfig(cmd=("default",))  # the library's own defaults, shown in --help
_SESSIONS = SessionSettings()
_HTTP = HttpSettings()

#: Lines of a child's stderr in an error message: a reason, and the stack trace that often follows it.
STDERR_LINES = 20

_SECONDS = click.FloatRange(min=0)
_POSITIVE = click.FloatRange(min=0, min_open=True)


def _open_standard_files() -> None:
    """Open what a service manager has closed: the next pipe would take its number, and its reader's trust."""
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number, which is this one


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="stdio-broker")
def main() -> None:
    """Serve stdio MCP servers over HTTP, each user with a supervised child process of their own."""
    _open_standard_files()


# What stands behind the command's name is the command's, with or without the --.
@main.command(context_settings={"allow_interspersed_args": False}, options_metavar="[OPTIONS] --")
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option(
    "--port", default=8080, show_default=True, type=click.IntRange(0, 65535), help="Port; 0: any free one."
)
@click.option(
    "--env",
    multiple=True,
    metavar="NAME[=VALUE]",
    help="Set a variable for the server. NAME alone passes the broker's own value on, "
    "which keeps a secret off the command line. May be repeated.",
)
@click.option("--name", help="What logs and hints call the server.  [default: the command's name]")
@click.option("--cwd", type=click.Path(exists=True, file_okay=False), help="Working directory of the server.")
@click.option(
    "--allow-remote",
    is_flag=True,
    help="Let --host be reachable from other machines, without any authentication.",
)
@click.option(
    "--allow-host",
    "allow_hosts",
    multiple=True,
    metavar="HOST",
    help="Accept this name in the Host header, besides loopback names. May be repeated.",
)
@click.option(
    "--allow-origin",
    "allow_origins",
    multiple=True,
    metavar="ORIGIN",
    help="Accept requests of web pages of this origin. May be repeated.",
)
@click.option(
    "--max-sessions",
    default=_SESSIONS.max_sessions,
    show_default=True,
    type=click.IntRange(1),
    help="Sessions, and children, at once; more get 503 with Retry-After.",
)
@click.option(
    "--max-body-bytes",
    default=_HTTP.max_body_bytes,
    show_default=True,
    type=click.IntRange(1),
    help="Longest request body; a longer one gets 413.",
)
@click.option(
    "--max-line-bytes",
    default=_CHILD.max_line_bytes,
    show_default=True,
    type=click.IntRange(1),
    help="Longest line of the server; a longer answer fails its call.",
)
@click.option(
    "--start-timeout",
    default=_SESSIONS.start_timeout,
    show_default=True,
    type=_POSITIVE,
    help="Seconds that the server has to answer its first request.",
)
@click.option(
    "--idle-timeout",
    default=_SESSIONS.idle_timeout,
    show_default=True,
    type=_POSITIVE,
    help="Seconds without a request after which a session, or a shared child, ends.",
)
@click.option(
    "--eof-grace",
    default=_CHILD.eof_grace,
    show_default=True,
    type=_SECONDS,
    help="Seconds between closing a child's stdin and SIGTERM.",
)
@click.option(
    "--stop-grace",
    default=_CHILD.stop_grace,
    show_default=True,
    type=_SECONDS,
    help="Seconds between SIGTERM and SIGKILL.",
)
@click.option(
    "--drain-grace",
    default=10.0,
    show_default=True,
    type=_SECONDS,
    help="Seconds that open calls get to finish at shutdown.",
)
@click.option(
    "--poll-interval",
    type=_POSITIVE,
    metavar="SECONDS",
    help="Close the stream of a call that is silent for this long; its client comes back for the answer "
    "(SEP-1699). Only for clients of 2025-11-25.  [default: never]",
)
@click.option(
    "--legacy-sse",
    is_flag=True,
    help="Serve /sse and /messages too, for clients of 2024-11-05. Deprecated; off unless you need it.",
)
@click.option("--hints/--no-hints", default=None, help="Print how to connect.  [default: on a terminal]")
@click.option(
    "--log-level",
    default="info",
    show_default=True,
    type=click.Choice(["debug", "info", "warning", "error"]),
    help="Least severe events shown; debug shows the server's stderr.",
)
@click.option(
    "--log-format",
    default="auto",
    show_default=True,
    type=click.Choice(["auto", "human", "json"]),
    help="Form of the log on stderr; auto: human on a terminal, JSON otherwise.",
)
def run(
    *,
    command: tuple[str, ...],
    hints: bool | None,
    log_level: LogLevel,
    log_format: LogFormat,
    **options: object,
) -> None:
    """Serve one stdio MCP server over Streamable HTTP, without authentication.

    COMMAND is started once to see that it speaks MCP, then once for every session; clients of
    2026-07-28, which has no sessions, share one. It gets a short list of the broker's environment
    (PATH, HOME, LANG and the like) and what --env names.

    \b
      stdio-broker run -- mcp-server-git --repository .
      stdio-broker run --env FORGEJO_URL=https://git.example --env FORGEJO_ACCESS_TOKEN \\
          -- forgejo-mcp --transport stdio
      stdio-broker run --port 0 -- npx -y @modelcontextprotocol/server-everything

    One line with the URL goes to stdout when requests are answered; logs go to stderr. Ctrl-C or
    SIGTERM ends it: open calls may finish, then every child is stopped (stdin closed, SIGTERM,
    SIGKILL), and the exit code is 0. A second one hurries.
    """  # noqa: D301 - click reads \\b as: leave this paragraph alone
    configure_logging(log_level, log_format)
    try:
        configuration = run_configuration(
            command=command,
            environ=os.environ,
            **options,  # type: ignore[arg-type] # click has checked their types
        )
        drop_inherited_ignores()
        raise_descriptor_limit()
        show_hints = (sys.stdout is not None and sys.stdout.isatty()) if hints is None else hints
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            runner.run(_run(configuration, show_hints=show_hints))
    except ConfigError as exc:
        _fail(2, *exc.problems)
    except ProbeFailed as exc:
        _fail(1, *_explain(exc, command[0]))
    except BrokerError as exc:
        _fail(1, str(exc))


async def _run(configuration: Configuration, *, show_hints: bool) -> None:
    shutdown = Shutdown()
    with shutdown.on_signals():
        await serve(
            configuration,
            shutdown=shutdown,
            announce=lambda ready: _announce(ready, configuration, show_hints=show_hints),
        )


def _announce(ready: Ready, configuration: Configuration, *, show_hints: bool) -> None:
    agreement = ready.agreement
    parts = [part for part in (agreement.name, agreement.server_version) if part]
    identity = printable(" ".join(parts) or "no name given")
    name = configuration.server.name
    version = agreement.revision.version
    click.echo(f"stdio-broker: {name} ({identity}, MCP {version}) is ready at {ready.url}")
    if show_hints:
        hints = _HINTS.format(url=ready.url, name=shlex.quote(name), initialize=_INITIALIZE)
        click.echo(hints, err=True)
    if sys.stdout is not None:  # it was closed before we began
        sys.stdout.flush()


_INITIALIZE = (
    '{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"2025-11-25",'
    '"capabilities":{},"clientInfo":{"name":"curl","version":"0"}}}'
)

_HINTS = """
Connect with
  Claude Code   claude mcp add --transport http {name} {url}
  inspector     npx @modelcontextprotocol/inspector --cli {url} --transport http --method tools/list
  curl          curl -i {url} -H 'Content-Type: application/json' \\
                  -H 'Accept: application/json, text/event-stream' \\
                  -d '{initialize}'
Stop with Ctrl-C.
"""


def _explain(exc: ProbeFailed, program: str) -> list[str]:
    """Say what was seen of a command that is no MCP server, and what to try."""
    lines = []
    if exc.exit_status is not None:
        lines.append(f"{program!r} {exc.exit_status} before it answered `initialize`")
        if not exc.stderr_tail:
            lines.append("run the command by hand: an MCP server waits for messages on its stdin")
    else:
        lines.append(f"{program!r} runs, but is no MCP server that can be used: {printable(str(exc))}")
        lines.append(
            "check its arguments (many servers need `--transport stdio` or the like), or --start-timeout"
        )
    if exc.first_bad_line is not None:
        lines.append(
            f"its stdout, which may carry MCP messages only, began with: {printable(exc.first_bad_line)}"
        )
    if exc.stderr_tail:
        lines.append("its last lines on stderr were:")
        lines += [f"  {printable(line)}" for line in exc.stderr_tail[-STDERR_LINES:]]
    return lines


def _fail(code: int, *lines: str) -> NoReturn:
    first, *rest = lines
    click.echo(f"stdio-broker: {first}", err=True)
    for line in rest:
        click.echo(f"  {line}" if code == 1 else f"stdio-broker: {line}", err=True)
    sys.exit(code)


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop]:
    try:
        import uvloop  # noqa: PLC0415 - not everywhere
    except ImportError:
        return asyncio.new_event_loop
    return uvloop.new_event_loop
