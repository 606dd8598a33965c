"""`stdio-broker check`: what would be served, tried before anybody depends on it."""

import asyncio
import json
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import click

from ..auth.keys import principal_problem
from ..broker.checking import Checked, check
from ..config import Configuration, load_configuration
from ..errors import ConfigError
from ..sessions import ProbeFailed
from ..sessions.examine import Examination
from ..supervisor import drop_inherited_ignores, forbid_dumps, raise_descriptor_limit
from ..telemetry import configure_logging, printable
from .common import config_option, fail, loop_factory
from .explaining import STDERR_LINES, explain_probe

__all__ = ["check_command"]

_COLUMNS = ("SERVER", "ERAS", "MCP", "NAME", "VERSION", "TOOLS", "START", "MEMORY", "ISOLATION")

#: Longest text of a server's own in the table.
MAX_CELL_CHARS = 40

_MIB = 1024 * 1024


@click.command("check")
@config_option
@click.option(
    "--principal",
    metavar="NAME",
    help="Try the servers with the credentials of this user. Without it, those that need one are not tried.",
)
@click.option("--json", "as_json", is_flag=True, help="As a JSON object, with the names of all tools.")
@click.option("--verbose", is_flag=True, help="Show the names of all tools.")
def check_command(*, path: Path, principal: str | None, as_json: bool, verbose: bool) -> None:
    """Check a configuration file, and start each of its servers once to see what it is.

    Mistakes in the file are told all at once, with exit code 2. Then every server is started, once for each
    era of MCP, and stopped again; nothing is served. If one fails, the others are still tried, and the exit
    code is 1. A server that was not tried is no failure.
    """
    # What goes wrong with a credential is told in the log only. How a process ended is told here.
    configure_logging("warning", "auto")
    logging.getLogger("stdio_broker.supervisor").setLevel(logging.ERROR)
    try:
        configuration = load_configuration(path, environ=os.environ)
        _check_principal(principal, configuration)
    except ConfigError as exc:
        fail(2, *exc.problems)
    drop_inherited_ignores()
    raise_descriptor_limit()
    forbid_dumps()
    shows_progress = sys.stderr is not None and sys.stderr.isatty()
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        checked = runner.run(
            check(configuration, principal=principal, on_begin=_tell if shows_progress else _tell_nobody)
        )
    click.echo(_as_json(checked) if as_json else _as_text(checked, verbose=verbose))
    if any(one.status == "failed" for one in checked):
        sys.exit(1)


def _check_principal(principal: str | None, configuration: Configuration) -> None:
    """Check that there can be such a user.

    Raises:
        ConfigError: There cannot.
    """
    if principal is None:
        return
    if configuration.auth.mode == "none":
        raise ConfigError('--principal: there are no principals where `auth.mode` is "none"; leave it out')
    if problem := principal_problem(principal):
        raise ConfigError(f"--principal: {problem}")


def _tell(server: str) -> None:
    click.echo(f"trying {server} …", err=True)


def _tell_nobody(_server: str) -> None:
    """Say nothing: nobody waits for it."""


# As text.


def _as_text(checked: Sequence[Checked], *, verbose: bool) -> str:
    lines = _aligned([_COLUMNS, *map(_row, checked)])
    for one in checked:
        if one.failure is not None:
            lines += ["", *_failure(one)]
        elif one.not_tried is not None:
            lines += ["", f"{one.name} was not tried: {one.not_tried}"]
        elif verbose and one.examination is not None:
            tools = ", ".join(map(printable, one.examination.tools)) or "none"
            lines += ["", f"tools of {one.name}: {tools}{_more(one.examination)}"]
    return "\n".join(lines)


def _row(one: Checked) -> tuple[str, ...]:
    found = one.examination
    if found is None:
        return (one.name, one.status, *["-"] * (len(_COLUMNS) - 3), one.isolation)
    return (
        one.name,
        "+".join(found.eras),
        found.version,
        _short(found.name),
        _short(found.server_version),
        f"{len(found.tools)}{'+' if found.has_more_tools else ''}",
        f"{found.start_seconds:.2f} s",
        "-" if found.memory_bytes is None else f"{found.memory_bytes / _MIB:.0f} MiB",
        one.isolation,
    )


def _more(found: Examination) -> str:
    return ", and more" if found.has_more_tools else ""


def _short(text: str | None) -> str:
    """Return a text of a server's own that fits into a table."""
    if not text:
        return "-"
    shown = printable(text)
    return shown if len(shown) <= MAX_CELL_CHARS else f"{shown[: MAX_CELL_CHARS - 1]}…"


def _failure(one: Checked) -> list[str]:
    first, *rest = _reason(one)
    return [f"{one.name} failed: {first}", *(f"  {line}" for line in rest)]


def _reason(one: Checked) -> list[str]:
    if isinstance(one.failure, ProbeFailed):
        return explain_probe(one.failure, one.program, timeout_name="its `start_timeout`")
    return [printable(str(one.failure))]


def _aligned(rows: Sequence[tuple[str, ...]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)
    return [line.rstrip() for line in lines]


# As JSON.


def _as_json(checked: Sequence[Checked]) -> str:
    return json.dumps(
        {
            "ok": not any(one.status == "failed" for one in checked),
            "servers": [_entry(one) for one in checked],
        },
        indent=2,
    )


def _entry(one: Checked) -> dict[str, object]:
    entry: dict[str, object] = {
        "name": one.name,
        "path": one.path,
        "isolation": one.isolation,
        "status": one.status,
    }
    if (found := one.examination) is not None:
        return entry | {
            "eras": list(found.eras),
            "version": found.version,
            "server_name": found.name,
            "server_version": found.server_version,
            "tools": list(found.tools),
            "has_more_tools": found.has_more_tools,
            "start_seconds": round(found.start_seconds, 3),
            "memory_bytes": found.memory_bytes,
        }
    if one.failure is None:
        return entry | {"reason": one.not_tried}
    tail = one.failure.stderr_tail[-STDERR_LINES:] if isinstance(one.failure, ProbeFailed) else ()
    return entry | {"reason": _reason(one)[0], "stderr": [printable(line) for line in tail]}
