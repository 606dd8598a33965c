"""What is made of the model: the tables of the reference page, and the JSON Schema.

`python -m tests.config.documents` writes them; tests compare.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from stdio_broker.config.credential_model import (
    CommandCredential,
    EnvironmentCredential,
    FileCredential,
    StaticCredential,
)
from stdio_broker.config.isolation_model import ChildLimits, IsolationTable
from stdio_broker.config.keys import UNIT, WHY, Reference, Table
from stdio_broker.config.model import Auth, Http, Limits, Storage
from stdio_broker.config.schema import schema_text
from stdio_broker.config.server_model import Server
from stdio_broker.config.shape import Place, expected, place_of
from stdio_broker.config.toml_text import string

ROOT = Path(__file__).parent.parent.parent
PAGE = ROOT / "docs" / "configuration.md"
SCHEMA = ROOT / "docs" / "broker.schema.json"

#: The tables of the page, by the name in its markers.
TABLES: dict[str, type[Table]] = {
    "http": Http,
    "limits": Limits,
    "auth": Auth,
    "storage": Storage,
    "secrets.NAME": Reference,
    "servers.NAME": Server,
    "servers.NAME.credential, static": StaticCredential,
    "servers.NAME.credential, file": FileCredential,
    "servers.NAME.credential, env": EnvironmentCredential,
    "servers.NAME.credential, command": CommandCredential,
    "servers.NAME.isolation": IsolationTable,
    "servers.NAME.limits": ChildLimits,
}

_SECTION = re.compile(r"<!-- keys of (?P<name>.*?) -->\n.*?<!-- end -->", re.DOTALL)

_SIZES = ((1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB"))


def extra(field: FieldInfo, name: str) -> str:
    """Return what is said of a key besides its description."""
    return str(field.json_schema_extra[name]) if isinstance(field.json_schema_extra, dict) else ""


def page(text: str) -> str:
    """Return a page with its tables made anew."""
    return _SECTION.sub(lambda found: "\n".join(_section(found["name"])), text)


def _section(name: str) -> Iterator[str]:
    yield f"<!-- keys of {name} -->"
    yield ""
    yield "| key | value | default | what it is, and why |"
    yield "|---|---|---|---|"
    table = TABLES[name]
    for key, field in table.model_fields.items():
        yield _row(key, field, place_of(table, (key,)))
    yield ""
    yield "<!-- end -->"


def _row(key: str, field: FieldInfo, place: Place) -> str:
    if key == "source":
        cells = (f"`{key}`", expected(place), "required", "Which kind of source it is.")
    else:
        text = f"{field.description} *Why:* {extra(field, WHY)}"
        cells = (f"`{key}`", expected(place), _default(field), text)
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def _default(field: FieldInfo) -> str:
    value = field.default
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return _number(value, extra(field, UNIT))
    if isinstance(value, str):
        return f"`{string(value)}`"
    if isinstance(value, list):
        return "`[]`"
    return "required" if value is PydanticUndefined else "not set" if value is None else "empty"


def _number(value: float, unit: str) -> str:
    if unit == "bytes" and value:
        for size, name in _SIZES:
            if value % size == 0:
                return f"{value // size} {name}"
    return f"{value:g} {unit.removesuffix('s') if value == 1 else unit}".strip()


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text()))
    SCHEMA.write_text(schema_text())
