"""From an MCP client's file of servers to a configuration file of ours. Pure, but for looking at directories.

Understands `mcpServers` (Claude Desktop, Claude Code, Cursor and most others), and `servers` with `inputs`
(Visual Studio Code). No secret is written into the result, and what could not be taken over is told.
"""

import os
import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ..errors import ConfigError
from .credential_composing import VARIABLE
from .import_values import CHANGE_ME, Imported, Names, argument, variable
from .jsonc import parse_jsonc
from .server_composing import RESERVED
from .server_model import MAX_NAME_CHARS
from .toml_text import key, string

__all__ = ["Import", "import_servers"]

_HEADER = """\
# Made by `stdio-broker import`. Look it through, then try it: stdio-broker check --config FILE
# Users need keys (`stdio-broker key create`). For yourself alone, on this machine:
# [auth]
# mode = "none"
"""

#: Keys of an entry that are taken over, or mean nothing here.
_KNOWN = frozenset({"args", "command", "cwd", "disabled", "env", "type", "url"})

#: Values of `type` for what is not stdio.
_REMOTE = frozenset({"http", "sse", "streamable-http", "streamablehttp", "ws", "websocket"})


@dataclass(frozen=True, slots=True)
class Import:
    """What came of a file.

    Attributes:
        text: The configuration file.
        notes: What was left out, and why; one sentence each.
    """

    text: str
    notes: tuple[str, ...]


@dataclass(slots=True)
class _Result:
    names: Names = field(default_factory=Names)
    servers: dict[str, list[str]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def import_servers(text: str) -> Import:
    """Return the configuration file for the servers in a client's file.

    Raises:
        ConfigError: It is no such file, or has no stdio server in it.
    """
    try:
        document = parse_jsonc(text)
    except ValueError as exc:
        raise ConfigError(f"expected JSON, found something else: {exc}") from None
    entries, inputs = _entries(document)
    result = _Result()
    for name, entry in entries.items():
        problem = _problem(entry)
        if problem is None and isinstance(entry, Mapping):
            ours = _name(name, result.servers)
            result.servers[ours] = [*_renamed(name, ours), *_lines(ours, entry, inputs, result)]
        else:
            result.notes.append(f"{string(name)} was left out: {problem}")
    if not result.servers:
        raise ConfigError("expected a stdio server, with a `command`; found none", *result.notes)
    return Import("\n".join(_document(result)), tuple(result.notes))


def _entries(document: object) -> tuple[dict[str, object], dict[str, str]]:
    """Return the servers of a file, and what its editor asks for."""
    tables = document if isinstance(document, Mapping) else {}
    if isinstance(tables.get("mcp"), Mapping):  # settings.json of Visual Studio Code
        tables = tables["mcp"]
    for name in ("mcpServers", "servers"):
        if isinstance(entries := tables.get(name), Mapping):
            return dict(entries), dict(_inputs(tables.get("inputs")))
    raise ConfigError('expected an object with "mcpServers" (or "servers"), found none')


def _inputs(inputs: object) -> Iterator[tuple[str, str]]:
    for one in inputs if isinstance(inputs, list) else []:
        if isinstance(one, Mapping) and isinstance(one.get("id"), str):
            yield one["id"], str(one.get("description", ""))


def _problem(entry: object) -> str | None:
    """Return why an entry cannot be taken over, if so."""
    if not isinstance(entry, Mapping):
        return "expected an object"
    kind, command, env = entry.get("type"), entry.get("command"), entry.get("env")
    if (isinstance(kind, str) and kind.lower() in _REMOTE) or (entry.get("url") and not command):
        return "it is not a stdio server, but reached over HTTP; clients can use it as it is"
    if entry.get("disabled") is True:
        return "it is disabled in the file"
    if not isinstance(command, str) or not command.strip():
        return "it has no `command`"
    if not _is_texts(entry.get("args")):
        return "expected `args` to be a list of texts"
    return None if env is None or isinstance(env, Mapping) else "expected `env` to be an object"


def _is_texts(value: object) -> bool:
    return value is None or (isinstance(value, list) and all(isinstance(one, str) for one in value))


def _name(name: str, taken: Mapping[str, object]) -> str:
    """Return a name that a part of a URL can be, and that no other server has."""
    base = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[: MAX_NAME_CHARS - 8].rstrip("-") or "server"
    if base in RESERVED:
        base += "-server"
    number = 2
    ours = base
    while ours in taken:
        ours = f"{base}-{number}"
        number += 1
    return ours


def _renamed(name: str, ours: str) -> Iterator[str]:
    if name != ours:
        yield f"# It was called {string(name)}."


def _lines(
    server: str, entry: Mapping[str, object], inputs: Mapping[str, str], result: _Result
) -> Iterator[str]:
    yield f"[servers.{server}]"
    words = _words(entry)
    command, *args = words
    yield from _line("command", _program(command))
    if args:
        imported = [argument(arg, before=before) for before, arg in zip(words, args, strict=False)]
        toml = f"[{', '.join(one.toml for one in imported)}]"
        yield from _line("args", Imported(toml, tuple(text for one in imported for text in one.comments)))
    yield from _cwd(entry.get("cwd"))
    left_out = sorted(str(name) for name in entry if name not in _KNOWN)
    if left_out:
        yield f"# Not taken over: {', '.join(string(name) for name in left_out)}."
    env = entry.get("env")
    if isinstance(env, Mapping) and env:
        yield ""
        yield f"[servers.{server}.env]"
        for name, value in env.items():
            yield from _variable(str(name), value, server, inputs, result)


def _words(entry: Mapping[str, object]) -> list[str]:
    """Return the command and its arguments, apart from each other."""
    command, args = str(entry["command"]).strip(), entry.get("args")
    rest = [str(arg) for arg in args] if isinstance(args, list) else []
    if "/" in command or " " not in command:
        return [command, *rest]
    try:
        return [*shlex.split(command), *rest]
    except ValueError:  # a quote that does not end
        return [*command.split(), *rest]


def _program(command: str) -> Imported:
    imported = argument(os.path.expanduser(command))  # noqa: PTH111 - a text, which may be no path
    return Imported(string(CHANGE_ME), imported.comments) if CHANGE_ME in imported.toml else imported


def _cwd(cwd: object) -> Iterator[str]:
    if not isinstance(cwd, str) or not cwd:
        return
    path = Path(os.path.expanduser(cwd))  # noqa: PTH111 - as above
    if "\0" not in cwd and "${" not in cwd and path.is_absolute() and path.is_dir():
        yield f"cwd = {string(str(path))}"
    else:
        yield "# There is no such directory here:"
        yield f"# cwd = {string(cwd)}"


def _variable(
    name: str, value: object, server: str, inputs: Mapping[str, str], result: _Result
) -> Iterator[str]:
    text = _text(value)
    if text is None or "\0" in text or not VARIABLE.fullmatch(name):
        yield f"# Left out, for no variable can be like that: {string(name)}."
        return
    yield from _line(key(name), variable(name, text, server=server, names=result.names, inputs=inputs))


def _text(value: object) -> str | None:
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value) if isinstance(value, str | int | float) else None


def _line(name: str, imported: Imported) -> Iterator[str]:
    yield from (f"# {_printable(comment)}" for comment in dict.fromkeys(imported.comments))
    yield f"{name} = {imported.toml}"


def _printable(text: str) -> str:
    """Return a text that a comment can hold: it ends with its line."""
    return "".join(char if char.isprintable() else " " for char in text)


def _document(result: _Result) -> Iterator[str]:
    yield _HEADER
    for name, kept in result.names.secrets.items():
        yield f"[secrets.{key(name)}]"
        yield f'env = {string(kept)}  # or: file = "PATH"'
        yield ""
    for lines in result.servers.values():
        yield from lines
        yield ""
