"""The JSON Schema of the configuration file, for editors: completion, and mistakes as they are made.

Source: JSON Schema 2020-12. What depends on two keys is not in it; `stdio-broker check` knows that.
"""

import json
from collections.abc import Mapping

from pydantic.json_schema import GenerateJsonSchema

from .keys import UNIT, WHY
from .model import File

__all__ = ["schema_text"]

Json = dict[str, object]


def schema_text() -> str:
    """Return the schema as a document."""
    document = {
        "$schema": GenerateJsonSchema.schema_dialect,
        **_in_words(File.model_json_schema()),
        "title": "Configuration of stdio-broker",
    }
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


def _in_words(schema: Mapping[str, object]) -> Json:
    """Return a schema in which the unit and the reason of each key are a part of its description."""
    plain: Json = {}
    for key, value in schema.items():
        if key == "default" and (value is None or isinstance(value, Mapping)):
            continue  # what TOML has not, and what the keys below say themselves
        if isinstance(value, Mapping):
            plain[key] = _in_words(value)
        elif isinstance(value, list):
            plain[key] = [_in_words(item) if isinstance(item, Mapping) else item for item in value]
        elif key not in {UNIT, WHY}:
            plain[key] = value
    _drop_null(plain)
    if WHY in schema:
        unit = f" In {schema[UNIT]}." if schema.get(UNIT) else ""
        plain["description"] = f"{schema.get('description', '')}{unit} {schema[WHY]}"
        plain.pop("title", None)  # it repeats the key
    return plain


def _drop_null(schema: Json) -> None:
    """Forget that a key may be null, which TOML has not: it is left out instead."""
    arms = schema.get("anyOf")
    if isinstance(arms, list) and {"type": "null"} in arms:
        rest = [arm for arm in arms if arm != {"type": "null"}]
        del schema["anyOf"]
        schema.update(rest[0] if len(rest) == 1 else {"anyOf": rest})
