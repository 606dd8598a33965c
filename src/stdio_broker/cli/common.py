"""What the commands have in common: the options of the log, the event loop, and how a command fails."""

import asyncio
import gc
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import click

__all__ = ["config_option", "fail", "log_options", "loop_factory", "spare_pauses"]

#: Objects more than there were before the youngest are looked at; looks at those before the next older ones
#: are; and so on. CPython's own are 700, 10 and 10, for programs that make less and pause for nobody.
GC_THRESHOLDS = (5_000, 10, 4)

Command = TypeVar("Command", bound=Callable[..., Any])


config_option = click.option(
    "--config",
    "path",
    required=True,
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="The configuration, a TOML file; see docs/configuration.md.",
)


def log_options(command: Command) -> Command:
    """Give a command the options of the log."""
    level = click.option(
        "--log-level",
        default="info",
        show_default=True,
        type=click.Choice(["debug", "info", "warning", "error"]),
        help="Least severe events shown; debug shows the server's stderr.",
    )
    form = click.option(
        "--log-format",
        default="auto",
        show_default=True,
        type=click.Choice(["auto", "human", "json"]),
        help="Form of the log on stderr; auto: human on a terminal, JSON otherwise.",
    )
    return level(form(command))


def fail(code: int, *lines: str) -> NoReturn:
    """Say what went wrong, and exit.

    Args:
        code: 2 for usage and configuration, 1 for everything else.
        lines: The mistakes, one per line; or what went wrong, and more about it.
    """
    first, *rest = lines
    click.echo(f"stdio-broker: {first}", err=True)
    for line in rest:
        click.echo(f"  {line}" if code == 1 else f"stdio-broker: {line}", err=True)
    sys.exit(code)


def spare_pauses() -> None:
    """Have the garbage collector leave alone what lives as long as the process, and look at the rest rarely.

    To look at everything holds every client up, for 100 ms with 1,000 sessions, and in a storm of new ones
    it is looked at again and again. There is little garbage in cycles here (of leases that have ended): what
    is not needed any more goes at once. To be called when everything is there that will stay.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLDS)


def loop_factory() -> Callable[[], asyncio.AbstractEventLoop]:
    """Return what makes the event loop: the fastest there is."""
    try:
        import uvloop  # noqa: PLC0415 - not everywhere
    except ImportError:
        return asyncio.new_event_loop
    return uvloop.new_event_loop
