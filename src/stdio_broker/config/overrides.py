"""Values of the file that the environment replaces: `STDIO_BROKER_HTTP__PORT=9000` is `http.port`. Pure.

    STDIO_BROKER_  then the keys, in capitals, joined by __; a hyphen in a server's name is written as _

A name without `__` is none of ours: a supervised broker has STDIO_BROKER_CHILD, and a cluster that serves
us as `stdio-broker` sets STDIO_BROKER_PORT. Only where it would be ours with `__`, that is said.
"""

import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TypeGuard

from .keys import Table
from .problems import Path, nearest
from .shape import Place

__all__ = ["PREFIX", "Overridden", "override", "variable_of"]

PREFIX = "STDIO_BROKER_"

_JOIN = "__"

# What a cluster puts into the variables of its services.
_SERVICE_URL = ("tcp://", "udp://", "sctp://")


@dataclass(frozen=True, slots=True)
class Overridden:
    """A file, and what of it comes from somewhere else.

    Attributes:
        tree: The file's tables, with the values replaced.
        variables: The variable that each replaced value comes from.
        problems: What is wrong with the names of variables, one sentence each.
    """

    tree: dict[str, object]
    variables: dict[Path, str] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)


class _Unknown(Exception):
    """No key of ours."""


def override(tree: Mapping[str, object], root: type[Table], environ: Mapping[str, str]) -> Overridden:
    """Return a file with the values that the environment replaces.

    Args:
        tree: The file's tables; they are not changed.
        root: The class of the whole file.
        environ: The broker's own environment.
    """
    result = Overridden(_copy(tree))
    for name in sorted(environ):
        if not name.startswith(PREFIX):
            continue
        parts = name.removeprefix(PREFIX).split(_JOIN)
        try:
            if len(parts) > 1:
                place = _resolve(Place((), (root,)), parts, result.tree)
                _put(result.tree, place, environ[name])
                result.variables[place.path] = name
            elif not environ[name].startswith(_SERVICE_URL):
                _check_single(parts[0], root)
        except _Unknown as exc:
            result.problems.append(f"{name}: {exc}")
    return result


def variable_of(path: Path, variables: Mapping[Path, str]) -> str | None:
    """Return the variable that the value at a place comes from; None for what comes from the file."""
    while path:
        if path in variables:
            return variables[path]
        path = path[:-1]
    return None


def _resolve(place: Place, parts: list[str], node: object) -> Place:
    """Return the place that the parts of a name lead to, from a place whose value is the node."""
    while parts:
        part, *parts = parts
        if place.named is None:
            place = _key(place, part.lower())
        elif place.path[-1:] == ("env",):
            # Names of variables: as they are, and with any __ of their own.
            return place.key(_JOIN.join([part, *parts])) or place
        else:
            place = place.key(_named(place, part, node)) or place
        node = node.get(str(place.path[-1])) if _is_table(node) else None
    return place


def _key(place: Place, name: str) -> Place:
    below = place.key(name)
    if below is None:
        raise _Unknown(f"unknown key {name!r}; {nearest(name, place.unknown(name).known)}")
    return below


def _named(place: Place, part: str, node: object) -> str:
    """Return the name, of those in the file, that part of a variable's name stands for."""
    names = [str(name) for name in node] if _is_table(node) else []
    for name in names:
        if name.upper().replace("-", "_") == part:
            return name
    raise _Unknown(f"the file has no {place.path[-1]}.{part.lower()}; {nearest(part, names)}")


def _put(tree: dict[str, object], place: Place, text: str) -> None:
    *above, last = place.path
    for part in above:
        below = tree.get(str(part))
        if not _is_table(below):
            below = tree[str(part)] = {}
        tree = below
    tree[str(last)] = _value(text, place)


def _value(text: str, place: Place) -> object:
    """Return the value of a variable: a text as it is, anything else as TOML has it."""
    try:
        parsed = tomllib.loads(f"value = {text}")
    except (ValueError, RecursionError):  # more digits, or more brackets, than Python takes
        return text
    # A line end in the text would begin another key.
    if set(parsed) != {"value"} or (place.may_be(str) and not isinstance(parsed["value"], dict | list)):
        return text
    value: object = parsed["value"]
    if isinstance(value, list) and place.may_be(str) and not place.may_be(list):
        return text
    return value


def _check_single(name: str, root: type[Table]) -> None:
    for table in root.model_fields:
        key = name.removeprefix(f"{table.upper()}_").lower()
        if key != name.lower() and any(key in one.model_fields for one in _tables(root, table)):
            raise _Unknown(f"two underscores are expected: {PREFIX}{table.upper()}{_JOIN}{key.upper()}")


def _tables(root: type[Table], table: str) -> Iterator[type[Table]]:
    place = Place((), (root,)).key(table)
    if place is not None:
        yield from place.tables


def _is_table(value: object) -> TypeGuard[dict[str, object]]:
    return isinstance(value, dict)


def _copy(tree: Mapping[str, object]) -> dict[str, object]:
    return {key: _copy(value) if _is_table(value) else value for key, value in tree.items()}
