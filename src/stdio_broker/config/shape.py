"""The shape of a configuration file: which keys there may be, and what each holds. Pure.

Walks the classes of the model, so that messages, overrides and the reference page know the same keys.
"""

import types
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le
from pydantic.fields import FieldInfo

from .keys import LIST, TABLE, TEXT, UNIT, Table
from .toml_text import string

__all__ = ["Place", "arms", "expected", "one_of", "place_of", "unit_of"]


@dataclass(frozen=True, slots=True)
class Place:
    """A place in the file.

    Attributes:
        path: Keys and indices that lead there.
        types: What may stand there: the classes, and generic aliases such as `list[str]`.
        field: The key's documentation, where the place is a key of a table; of the nearest key above it else.
        known: The keys of the table that it stands in, where that is no table with free names.
    """

    path: tuple[str | int, ...] = ()
    types: tuple[object, ...] = ()
    field: FieldInfo | None = None
    known: tuple[str, ...] = ()

    @property
    def tables(self) -> tuple[type[Table], ...]:
        """The tables with fixed keys that may stand there."""
        return tuple(one for one in self.types if isinstance(one, type) and issubclass(one, Table))

    @property
    def named(self) -> object | None:
        """What the values of a table with free names are; None where none may stand."""
        return next((get_args(one)[1] for one in self.types if get_origin(one) is dict), None)

    def may_be(self, kind: type) -> bool:
        """Return whether a value of a type may stand there; for `str`, one of a few words too."""
        if kind is str and any(get_origin(one) is Literal for one in self.types):
            return True
        return any(one is kind or get_origin(one) is kind for one in self.types)

    def key(self, name: str) -> "Place | None":
        """Return what stands at a key of it; None if there is no such key."""
        if self.named is not None:
            return Place((*self.path, name), tuple(arms(self.named)), self.field)
        known = tuple(dict.fromkeys(name for table in self.tables for name in table.model_fields))
        for table in self.tables:
            if (field := table.model_fields.get(name)) is not None:
                return Place((*self.path, name), tuple(arms(field.annotation)), field, known)
        return None

    def unknown(self, name: str) -> "Place":
        """Return the place of a key that it does not have."""
        known = tuple(dict.fromkeys(name for table in self.tables for name in table.model_fields))
        return Place((*self.path, name), (), None, known)

    def item(self, index: int) -> "Place":
        """Return what stands at an index of a list."""
        items = tuple(get_args(one)[0] for one in self.types if get_origin(one) is list)
        return Place((*self.path, index), items, self.field)


def arms(annotation: object) -> Iterator[object]:
    """Yield what an annotation allows, one by one."""
    origin = get_origin(annotation)
    if origin is Annotated:
        yield from arms(get_args(annotation)[0])
    elif origin in {Union, types.UnionType}:
        for arm in get_args(annotation):
            yield from arms(arm)
    elif annotation is not type(None):
        yield annotation


def place_of(root: type[Table], location: Sequence[str | int]) -> Place:
    """Return the place that a location of pydantic's means; it names the arms of unions, too."""
    place = Place((), (root,))
    for part in location:
        if part == TABLE:
            place = Place(place.path, place.tables, place.field, place.known)
        elif part in {TEXT, LIST}:
            continue  # what was found may be neither, so that all that may stand there is worth telling
        elif isinstance(part, int):
            place = place.item(part)
        elif (arm := _arm(place, part)) is not None:
            place = Place(place.path, (arm,), place.field, place.known)
        else:
            place = place.key(part) or place.unknown(part)
    return place


def _arm(place: Place, part: str) -> type[Table] | None:
    """Return the table that a discriminating value stands for, where several may stand."""
    if len(place.tables) < 2:  # noqa: PLR2004 - two are the least that can be told apart
        return None
    for table in place.tables:
        source = table.model_fields.get("source")
        if source is not None and get_args(source.annotation) == (part,):
            return table
    return None


def expected(place: Place) -> str:
    """Return what may stand at a place, in words."""
    return " or ".join(dict.fromkeys(_in_words(one, place.field) for one in place.types))


def _in_words(kind: object, field: FieldInfo | None) -> str:
    if get_origin(kind) is Literal:
        return one_of(get_args(kind))
    if get_origin(kind) is list:
        return "a list of texts"
    if kind is str:
        return "a text"
    if kind is bool:
        return "true or false"
    if kind in {int, float}:
        what = "a whole number" if kind is int else "a number"
        unit = f" of {unit_of(field)}" if unit_of(field) else ""
        return f"{what}{unit}{_bounds(field)}"
    return "a table"


def _bounds(field: FieldInfo | None) -> str:
    """Return the bounds of a number, in words; an upper one has a lower one too."""
    limits = list(_metadata(field)) if field is not None else []
    lowest = next((limit.ge for limit in limits if isinstance(limit, Ge)), None)
    above = next((limit.gt for limit in limits if isinstance(limit, Gt)), None)
    highest = next((limit.le for limit in limits if isinstance(limit, Le)), None)
    if highest is not None:
        return f", {lowest} to {highest}"
    if lowest is not None:
        return f", {lowest} or more"
    return f", more than {above}" if above is not None else ""


def _metadata(field: FieldInfo) -> Iterator[object]:
    """Yield what is said of a field's type, wherever in the type it is said."""
    yield from field.metadata
    pending = [field.annotation]
    while pending:
        annotation = pending.pop()
        if get_origin(annotation) is Annotated:
            for extra in get_args(annotation)[1:]:
                yield from extra.metadata if isinstance(extra, FieldInfo) else (extra,)
        if get_origin(annotation) in {Annotated, Union, types.UnionType}:
            pending += [arg for arg in get_args(annotation) if not isinstance(arg, FieldInfo)]


def one_of(words: Sequence[object]) -> str:
    """Return a choice, in words."""
    quoted = [string(str(word)) for word in words]
    return " or ".join(filter(None, (", ".join(quoted[:-1]), quoted[-1])))


def unit_of(field: FieldInfo | None) -> str:
    """Return what the number of a key counts; empty for what is no number."""
    extra = field.json_schema_extra if field is not None else None
    return str(extra.get(UNIT, "")) if isinstance(extra, dict) else ""
