"""The command line: options in, exit codes out; nothing else.

Exit codes: 0 fine, 2 usage or configuration, 1 failed.
"""

import asyncio
import os
import shlex
import sys
from typing import get_args

import click

from .. import __version__
from ..broker import Ready, Shutdown, serve
from ..config import Configuration, run_configuration
from ..errors import BrokerError, ConfigError
from ..http import Settings as HttpSettings
from ..sessions import ProbeFailed
from ..sessions import Settings as SessionSettings
from ..sessions.settings import Recovery
from ..supervisor import Config as ChildConfig
from ..supervisor import drop_inherited_ignores, forbid_dumps, raise_descriptor_limit
from ..telemetry import LogFormat, LogLevel, configure_logging, printable
from .check import check_command
from .common import fail, log_options, loop_factory, spare_pauses
from .configuration import config_group, import_command
from .explaining import explain_probe
from .keys import key_commands
from .serving import serve_command

__all__ = ["main"]

_CHILD = ChildConfig(cmd=("default",))  # the library's own defaults, shown in --help
_SESSIONS = SessionSettings()
_HTTP = HttpSettings()

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


# None of them imports at its start what `run` does not need: it starts in half the time so.
for _command in (serve_command, check_command, import_command, config_group, key_commands):
    main.add_command(_command)


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
    help="Seconds without a request after which a child is stopped; its session sleeps until the next one.",
)
@click.option(
    "--session-timeout",
    default=_SESSIONS.session_timeout,
    show_default=True,
    type=_POSITIVE,
    help="Seconds without a request after which a session that sleeps ends.",
)
@click.option(
    "--recovery",
    default=_SESSIONS.recovery,
    show_default=True,
    type=click.Choice(get_args(Recovery)),
    help="replay: a session whose child has ended gets a fresh one; end: it ends with its child.",
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
@log_options
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
        forbid_dumps()
        show_hints = (sys.stdout is not None and sys.stdout.isatty()) if hints is None else hints
        with asyncio.Runner(loop_factory=loop_factory()) as runner:
            runner.run(_run(configuration, show_hints=show_hints))
    except ConfigError as exc:
        fail(2, *exc.problems)
    except ProbeFailed as exc:
        fail(1, *explain_probe(exc, command[0], timeout_name="--start-timeout"))
    except BrokerError as exc:
        fail(1, str(exc))


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
    if agreement is None:  # it is `run` that says this, and it has tried its server
        return
    url = ready.url + configuration.servers[0].path
    parts = [part for part in (agreement.name, agreement.server_version) if part]
    identity = printable(" ".join(parts) or "no name given")
    name = configuration.servers[0].recipe.name
    version = agreement.revision.version
    click.echo(f"stdio-broker: {name} ({identity}, MCP {version}) is ready at {url}")
    if show_hints:
        hints = _HINTS.format(url=url, name=shlex.quote(name), initialize=_INITIALIZE)
        click.echo(hints, err=True)
    if sys.stdout is not None:  # it was closed before we began
        sys.stdout.flush()
    spare_pauses()


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
