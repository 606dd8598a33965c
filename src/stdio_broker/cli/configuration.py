"""`stdio-broker import` and `stdio-broker config`: files, made and explained. They start nothing."""

import os
from pathlib import Path

import click

from ..config import load_configuration
from ..errors import ConfigError
from .common import fail

__all__ = ["config_group", "import_command"]


@click.command("import")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option(
    "--output",
    "-o",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write to this new file.  [default: stdout]",
)
def import_command(*, file: Path, output: Path | None) -> None:
    """Turn the servers of an MCP client into a configuration file.

    FILE is the client's: `mcpServers` of Claude Desktop, Claude Code or Cursor, `servers` of Visual Studio
    Code. What looks like a secret is not copied; comments say where to put it. Servers that are reached
    over HTTP are left out.
    """
    from ..config.importing import import_servers  # noqa: PLC0415 - `run` shall not pay for it

    try:
        imported = import_servers(_read(file))
        _write(output, imported.text)
    except ConfigError as exc:
        fail(2, *(f"{file}: {problem}" for problem in exc.problems))
    except OSError as exc:
        fail(1, f"{output}: cannot be written: {exc.strerror}")
    for note in imported.notes:
        click.echo(f"stdio-broker: {note}", err=True)


@click.group("config")
def config_group() -> None:
    """Explain a configuration file, or the format of such files."""


@config_group.command("explain")
@click.option(
    "--config",
    "path",
    required=True,
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="The configuration, a TOML file; see docs/configuration.md.",
)
def explain_command(*, path: Path) -> None:
    """Say what a file means: per server who can reach it, whose credential it gets, what keeps it in.

    Names of variables are shown, values never.
    """
    from ..config.explain import explain  # noqa: PLC0415 - as above

    try:
        click.echo(explain(load_configuration(path, environ=os.environ)), nl=False)
    except ConfigError as exc:
        fail(2, *exc.problems)


@config_group.command("schema")
def schema_command() -> None:
    """Print the JSON Schema of configuration files, for editors."""
    from ..config.schema import schema_text  # noqa: PLC0415 - as above

    click.echo(schema_text(), nl=False)


def _read(file: Path) -> str:
    """Return a file's text.

    Raises:
        ConfigError: It has none.
    """
    try:
        return file.read_bytes().decode()
    except OSError as exc:
        raise ConfigError(f"cannot be read: {exc.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigError("expected UTF-8, found other bytes") from None


def _write(output: Path | None, text: str) -> None:
    if output is None:
        click.echo(text, nl=False)
        return
    # "x": what is there already may have taken somebody an afternoon.
    with output.open("x", encoding="utf-8") as file:
        file.write(text)
