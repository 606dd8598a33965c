"""What is wrong with the values of a file, in words: where, what was expected, what was found. Pure.

A value may be a secret, so that it is quoted only where its key says that it is none.
"""

import difflib
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import get_args

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from .keys import Table
from .shape import Place, expected, one_of, place_of
from .toml_text import dotted, string

__all__ = ["Path", "Problem", "found", "nearest", "problems_of"]

Path = tuple[str | int, ...]

#: Tables and keys whose values may be secrets, or stand beside some.
_HIDDEN_TABLES = frozenset({"secrets", "storage"})
_HIDDEN_KEYS = frozenset({"args", "command", "credential", "env", "wrapper"})

#: What every program offers, and we do not.
_EVERYTHING = ": the broker's environment holds secrets that are none of this server's"

#: Errors about what tells one kind of value from another.
_UNKNOWN_KIND = frozenset({"union_tag_invalid", "union_tag_not_found"})

MAX_QUOTED_CHARS = 60
MAX_LISTED_KEYS = 8


@dataclass(frozen=True, slots=True)
class Problem:
    """One mistake.

    Attributes:
        path: Where it is.
        text: What was expected, and what was found.
    """

    path: Path
    text: str

    def __str__(self) -> str:
        return f"{dotted(self.path)}: {self.text}" if self.path else self.text


def problems_of(exc: ValidationError, root: type[Table]) -> Iterator[Problem]:
    """Yield the mistakes that the model found."""
    for error in exc.errors(include_url=False):
        place = place_of(root, error["loc"])
        if error["type"] in _UNKNOWN_KIND and isinstance(error["input"], Mapping) and place.tables:
            yield _wrong_source(error["input"], place)
        else:
            yield Problem(place.path, _text(error, place))


def nearest(name: str, known: Collection[str]) -> str:
    """Return what to say of a name that is not known: the nearest one, or all if they are few."""
    close = difflib.get_close_matches(name.lower(), known, n=1, cutoff=0.6)
    if close:
        return f"did you mean {string(close[0])}?"
    if known and len(known) <= MAX_LISTED_KEYS:
        return f"expected {one_of(sorted(known))}"
    return "see the reference page for those that there are"


def found(value: object, path: Sequence[str | int]) -> str:
    """Return a value in words; in its own only where it can be no secret."""
    match value:
        case bool():
            words, own = "true or false", "true" if value else "false"
        case int() | float():
            words = own = "a number"
            if not isinstance(value, int) or value.bit_length() < 128:  # noqa: PLR2004 - more says nothing
                own = repr(value)
        case str():
            words, own = "a text", _quoted(value)
        case Mapping():
            words = own = "a table"
        case list():
            words = own = "a list"
        case _:
            words = own = "a date or time"
    return words if _is_hidden(path) else own


def _text(error: ErrorDetails, place: Place) -> str:
    value = error["input"]
    match error["type"]:
        case "extra_forbidden":
            return f"unknown key; {nearest(str(place.path[-1]), place.known)}"
        case "missing":
            return f"missing; expected {expected(place)}"
        case "mistake":
            return str(error["ctx"]["text"])
    reason = _EVERYTHING if place.path[-1:] == ("inherit_env",) and value == "all" else ""
    return f"expected {expected(place)}, found {found(value, place.path)}{reason}"


def _wrong_source(table: Mapping[str, object], place: Place) -> Problem:
    """Return what is wrong where the kind of a table is not known, so that its other keys are not either."""
    names = [get_args(one.model_fields["source"].annotation)[0] for one in place.tables]
    sources = one_of(names)
    path = (*place.path, "source")
    if "source" not in table:
        return Problem(path, f"missing; expected {sources}")
    value = table["source"]
    close = difflib.get_close_matches(value, names, n=1) if isinstance(value, str) else []
    hint = f"; did you mean {string(close[0])}?" if close else ""
    return Problem(path, f"expected {sources}, found {found(value, path)}{hint}")


def _quoted(text: str) -> str:
    short = text if len(text) <= MAX_QUOTED_CHARS else f"{text[:MAX_QUOTED_CHARS]}…"
    return string(short)


def _is_hidden(path: Sequence[str | int]) -> bool:
    table, *below = path or ("",)
    if table in _HIDDEN_TABLES:
        return True
    return table == "servers" and not _HIDDEN_KEYS.isdisjoint(below[1:])
