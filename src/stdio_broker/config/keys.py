"""What the keys of a configuration file are made of: documented fields, bounded numbers, references."""

from collections.abc import Mapping
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, model_validator
from pydantic.fields import FieldInfo
from pydantic_core import PydanticCustomError

__all__ = [
    "LIST",
    "MISTAKE",
    "TABLE",
    "TEXT",
    "UNIT",
    "WHY",
    "Count",
    "Grace",
    "Reference",
    "Seconds",
    "Size",
    "Table",
    "Value",
    "about",
    "kind_of",
    "mistake",
]

#: Where a field keeps what its documentation says apart from the description.
UNIT = "x-unit"
WHY = "x-why"

#: Tags of what may be of several kinds. No key looks like them, so that they can be told from keys.
TEXT = "<text>"
TABLE = "<table>"
LIST = "<list>"

#: The type of an error of ours.
MISTAKE = "mistake"

Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Grace = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]
Size = Annotated[int, Field(ge=1)]


def about(what: str, *, why: str, unit: str = "") -> FieldInfo:
    """Document a key.

    Args:
        what: What it is, as a sentence.
        why: The reason for its default, or for its being there, as a sentence.
        unit: What its number counts; empty for what is no number.
    """
    field: FieldInfo = Field(description=what, json_schema_extra={UNIT: unit, WHY: why})
    return field


def kind_of(value: object) -> str:
    """Return the tag of a value that may be of several kinds: a text, a list, a table."""
    if isinstance(value, Mapping | BaseModel):
        return TABLE
    return LIST if isinstance(value, list) else TEXT


def mistake(text: str) -> PydanticCustomError:
    """Return an error of ours: what was expected, and what was found."""
    # The text goes by context: a brace in a template of pydantic's would be a placeholder.
    return PydanticCustomError(MISTAKE, "{text}", {"text": text})


class Table(BaseModel):
    """A table of the file: unknown keys and values of another type are mistakes, nothing is converted."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, hide_input_in_errors=True)


class Reference(Table):
    """Where a secret is: exactly one of the two."""

    model_config = ConfigDict(json_schema_extra={"minProperties": 1, "maxProperties": 1})

    file: Annotated[
        str | None,
        about(
            "A file with the secret and nothing else; a line end after it is ignored.",
            why="A file has an owner and a mode; one that all users of the machine can read is refused.",
        ),
    ] = None
    env: Annotated[
        str | None,
        about(
            "A variable of the broker's own environment.",
            why="Containers and service managers hand secrets over that way.",
        ),
    ] = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (self.file is None) == (self.env is None):
            both = "neither" if self.file is None else "both"
            raise mistake(f'expected {{file = "PATH"}} or {{env = "NAME"}}, found {both}')
        return self


#: A text, or where it is.
Value = Annotated[Annotated[str, Tag(TEXT)] | Annotated[Reference, Tag(TABLE)], Discriminator(kind_of)]
