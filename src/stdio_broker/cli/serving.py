"""`stdio-broker serve`: many servers, many users, as a file says."""

import asyncio
import os
import sys
from collections.abc import Callable
from pathlib import Path

import click

from ..broker import Ready, Shutdown, serve
from ..config import Configuration
from ..errors import BrokerError, ConfigError
from ..supervisor import drop_inherited_ignores, forbid_dumps, raise_descriptor_limit
from ..telemetry import LogFormat, LogLevel, configure_logging
from .common import config_option, fail, log_options, loop_factory, spare_pauses

__all__ = ["serve_command"]


@click.command("serve")
@config_option
@log_options
def serve_command(*, path: Path, log_level: LogLevel, log_format: LogFormat) -> None:
    """Serve the MCP servers of a configuration file to many users, each with children of their own.

    Every server has a URL of its own, http://HOST:PORT/NAME/mcp. One line with the address goes to stdout
    when requests are answered; logs go to stderr.

    SIGHUP, or a change of the file, reloads it: what has not changed is not disturbed, and a file with
    mistakes changes nothing. Ctrl-C or SIGTERM ends it: open calls may finish, then every child is
    stopped, and the exit code is 0. A second one hurries.
    """
    from ..config import load_configuration  # noqa: PLC0415 - `run` shall not pay for what only this needs

    configure_logging(log_level, log_format)

    def load() -> Configuration:
        return load_configuration(path, environ=os.environ)

    try:
        configuration = load()
        drop_inherited_ignores()
        raise_descriptor_limit()
        forbid_dumps()
        with asyncio.Runner(loop_factory=loop_factory()) as runner:
            runner.run(_serve(configuration, load))
    except ConfigError as exc:
        fail(2, *exc.problems)
    except BrokerError as exc:
        fail(1, str(exc))


async def _serve(configuration: Configuration, load: Callable[[], Configuration]) -> None:
    shutdown = Shutdown()
    with shutdown.on_signals(reloads=True):
        await serve(
            configuration,
            shutdown=shutdown,
            announce=lambda ready: _announce(ready, configuration),
            load=load,
        )


def _announce(ready: Ready, configuration: Configuration) -> None:
    paths = ", ".join(server.path for server in configuration.servers)
    click.echo(f"stdio-broker: ready at {ready.url}, serving {paths}")
    if sys.stdout is not None:  # it was closed before we began
        sys.stdout.flush()
    spare_pauses()
