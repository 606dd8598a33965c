"""What the values of an `mcpServers` file become: templates, references to secrets, plain text. Pure.

Source: the files of Claude Desktop and Claude Code (`${NAME}`, `${NAME:-default}`), Cursor
(`${env:NAME}`) and Visual Studio Code (`${env:NAME}`, `${input:NAME}`).
"""

import itertools
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from .secrecy import is_token, names_secret
from .toml_text import string

__all__ = ["CHANGE_ME", "Imported", "Names", "argument", "variable"]

#: Stands where the file had something that cannot stand there.
CHANGE_ME = "CHANGE-ME"

_PLACEHOLDER = re.compile(r"\$\{(?P<what>[^{}$]*)\}")
_ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_DEFAULT = re.compile(r"([A-Za-z_][A-Za-z0-9_]*):-(.*)", re.DOTALL)

_SECRET_ARGUMENT = (
    f"{CHANGE_ME} looked like a secret, and everybody on the machine can read arguments.",
    "Most servers take it in `env`.",
)

#: What an operator of many users may want instead.
_PER_USER = ('If each user has one of their own: "${credential.token}", and a `credential`.',)

#: Of the editor's, written like variables.
_FOLDERS = frozenset({"workspaceFolder", "workspaceFolderBasename", "userHome", "cwd", "pathSeparator"})

# Values that a secret of this name cannot have: a switch, a number, an address, a path.
_PLAIN = re.compile(r"true|false|yes|no|on|off|[0-9]+|https?://[^@\s]*|[/~.][^\s]*", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Imported:
    """One value.

    Attributes:
        toml: What to write.
        comments: What whoever reads it should know.
    """

    toml: str
    comments: tuple[str, ...] = ()


@dataclass(slots=True)
class Names:
    """The names that a file's secrets get in the result, each for one thing only.

    Attributes:
        variables: Variables of the broker's that hold secrets, and what the file had for each.
        secrets: Tables below `[secrets]`, and the variable that each names.
    """

    variables: dict[str, str] = field(default_factory=dict, repr=False)
    secrets: dict[str, str] = field(default_factory=dict)

    def variable(self, name: str, value: str, *, server: str) -> str:
        """Return the variable of the broker's that shall hold a value."""
        own = f"{name}_{server}".upper().replace("-", "_")
        candidates = itertools.chain((name, own), (f"{own}_{number}" for number in itertools.count(2)))
        return next(one for one in candidates if self.variables.setdefault(one, value) == value)

    def secret(self, name: str, variable: str) -> str:
        """Return the name of the table for a secret that is in a variable of the broker's."""
        base = re.sub(r"[^A-Za-z0-9_-]", "_", name)[:60] or "secret"
        candidates = itertools.chain((base,), (f"{base}_{number}" for number in itertools.count(2)))
        return next(one for one in candidates if self.secrets.setdefault(one, variable) == variable)


def variable(name: str, value: str, *, server: str, names: Names, inputs: Mapping[str, str]) -> Imported:
    """Return the value of a variable for a server's children.

    Args:
        name: The variable.
        value: What the file has.
        server: The server's name.
        names: Takes the secrets.
        inputs: What the editor asks its user for: names, and what it says to them.
    """
    whole = _PLACEHOLDER.fullmatch(value)
    if whole is not None and (taken := _taken(whole["what"])) is not None:
        kept = names.variable(taken, f"${{{taken}}}", server=server)
        asked = inputs.get(whole["what"].removeprefix("input:"), "")
        comments = (*([f"The editor asked for it: {asked}"] if asked else []), _set_it(kept))
        per_user = _PER_USER if names_secret(taken) else ()
        return Imported(f"{{ env = {string(kept)} }}", (*comments, *per_user))
    if _is_secret(name, value):
        kept = names.variable(name, value, server=server)
        seen = "The file had a value here that looks like a secret."
        return Imported(f"{{ env = {string(kept)} }}", (f"{seen} {_set_it(kept)}", *_PER_USER))
    return _template(value, server=server, names=names)


def argument(value: str, *, before: str = "") -> Imported:
    """Return a part of a command, where neither templates nor secrets can be.

    Args:
        value: What the file has.
        before: The argument before it: an option that says what it is.
    """
    if "\0" in value:
        return Imported(string(CHANGE_ME), (f"{CHANGE_ME} had a character that no program can receive.",))
    if is_token(value) or (before.startswith("-") and names_secret(before) and not _PLAIN.fullmatch(value)):
        return Imported(string(CHANGE_ME), _SECRET_ARGUMENT)
    option, _, rest = value.partition("=")
    if rest and names_secret(option) and not _PLAIN.fullmatch(rest):
        return Imported(string(f"{option}={CHANGE_ME}"), _SECRET_ARGUMENT)
    found = [match["what"] for match in _PLACEHOLDER.finditer(value)]
    if "${" in value:
        what = f"${{{found[0]}}}" if found else "${"
        text = _PLACEHOLDER.sub(CHANGE_ME, value).replace("${", CHANGE_ME)
        return Imported(string(text), (f"{CHANGE_ME} was made of {what}, and no template is possible here.",))
    return Imported(string(value))


def _template(value: str, *, server: str, names: Names) -> Imported:
    """Return a text with what clients put in replaced by what we do."""
    comments: list[str] = []
    pieces: list[str] = []
    end = 0
    for match in _PLACEHOLDER.finditer(value):
        pieces.append(_escaped(value[end : match.start()]))
        end = match.end()
        if (taken := _taken(match["what"])) is not None:
            secret = names.secret(taken, names.variable(taken, f"${{{taken}}}", server=server))
            pieces.append(f"${{secret:{secret}}}")
        elif (default := _DEFAULT.fullmatch(match["what"])) is not None:
            pieces.append(_escaped(default[2]))
            comments.append(f"The file took {default[1]} of its environment, if there was one.")
        else:
            pieces.append(_escaped(match[0]))
            comments.append("The client put something in here that the broker does not know: change it.")
    pieces.append(_escaped(value[end:]))
    return Imported(string("".join(pieces)), tuple(comments))


def _taken(what: str) -> str | None:
    """Return the variable of the broker's that stands for a placeholder; None if none does."""
    kind, colon, name = what.rpartition(":")
    if colon and kind == "input":
        return re.sub(r"[^A-Za-z0-9_]", "_", name).upper().lstrip("0123456789") or "INPUT"
    if (kind == "env" or not colon) and _ENV_NAME.fullmatch(name) and name not in _FOLDERS:
        return name
    return None


def _set_it(kept: str) -> str:
    return f'Set {kept} for the broker, or name a file: {{ file = "PATH" }}.'


def _escaped(text: str) -> str:
    # All of them, for one at the end of a piece would join what comes next.
    return text.replace("$", "$$")


def _is_secret(name: str, value: str) -> bool:
    if is_token(value):
        return True
    return names_secret(name) and "${" not in value and not _PLAIN.fullmatch(value)
