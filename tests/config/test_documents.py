"""The reference page, the schema and the examples say what the code does."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator  # type: ignore[import-untyped]

from stdio_broker.config.keys import UNIT, WHY, Table
from stdio_broker.config.model import File
from stdio_broker.config.schema import schema_text
from stdio_broker.config.shape import Place, expected, place_of
from stdio_broker.supervisor import MINIMAL
from tests.config.documents import PAGE, ROOT, SCHEMA, TABLES, extra, page
from tests.config.files import SERVER, load
from tests.config.test_loading import EVERYTHING

EXAMPLES = sorted((ROOT / "examples").glob("*.toml"))

HOW = "run `python -m tests.config.documents`"


def tables_of(place: Place) -> set[type[Table]]:
    """Return every table of the file, however deep it is."""
    found: set[type[Table]] = set()
    for table in place.tables:
        found.add(table)
        for name in table.model_fields:
            below = Place((), (table,)).key(name)
            assert below is not None
            if below.named is not None:
                below = below.key("any")
                assert below is not None
            found |= tables_of(below)
    return found


def test_the_page_says_every_key_as_it_is() -> None:
    """Issue 5: unit, default and reason of every key; and no key that there is not."""
    text = PAGE.read_text()
    assert page(text) == text, HOW
    shown = re.findall(r"<!-- keys of (.*?) -->", text)
    assert shown == list(TABLES)
    assert set(TABLES.values()) == tables_of(Place((), (File,))) - {File}


@pytest.mark.parametrize("table", TABLES.values(), ids=TABLES)
def test_every_key_has_a_description_a_unit_and_a_reason(table: type[Table]) -> None:
    """Issue 5: sentences, and a unit for every number."""
    for name, field in table.model_fields.items():
        if name == "source":
            continue
        assert field.description is not None, name
        assert field.description.endswith("."), name
        assert extra(field, WHY).endswith("."), name
        is_number = "number" in expected(place_of(table, (name,)))
        assert bool(extra(field, UNIT)) is (is_number and name != "port"), name


def test_the_page_names_what_is_inherited() -> None:
    """supervisor.environment: MINIMAL."""
    row = next(line for line in PAGE.read_text().splitlines() if line.startswith("| `inherit_env`"))
    assert set(re.findall(r"[A-Z_]{2,}\*?", row)) == set(MINIMAL)


@pytest.mark.parametrize("link", re.findall(r"\]\(#([\w-]+)\)", PAGE.read_text()))
def test_every_link_within_the_page_leads_somewhere(link: str) -> None:
    """Ours."""
    headings = re.findall(r"^## (.*)$", PAGE.read_text(), re.MULTILINE)
    assert link in {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_the_examples_of_the_page_are_right(tmp_path: Path) -> None:
    """Ours: what is copied from the page works."""
    blocks = re.findall(r"```toml\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert load(tmp_path, blocks[0]).servers[0].path == "/git/mcp"
    for block in blocks:
        tomllib.loads(block)


def test_the_schema_is_current() -> None:
    """Issue 5: a JSON Schema of the configuration for editors."""
    assert SCHEMA.read_text() == schema_text(), HOW


def test_the_schema_accepts_and_refuses_what_we_do() -> None:
    """JSON Schema 2020-12; each as far as it goes."""
    schema = json.loads(schema_text())
    Draft202012Validator.check_schema(schema)
    validator = Draft202012Validator(schema)
    for text in (SERVER, EVERYTHING, *(example.read_text() for example in EXAMPLES)):
        validator.validate(tomllib.loads(text))
    for wrong in (
        f"{SERVER}comand = 1",
        f"{SERVER}args = 1",
        "[servers.git]",
        "[servers.Git]\ncommand = 'x'",
        "[http]\nport = 65536",
        "[secrets.a]",
        '[secrets.a]\nenv = "A"\nfile = "b"',
        f'{SERVER}credential = {{ source = "file", value = "x" }}',
        f'{SERVER}isolation = "landlok"',
    ):
        assert not validator.is_valid(tomllib.loads(wrong)), wrong


def test_the_schema_says_every_key_in_words() -> None:
    """Ours: an editor shows unit and reason where somebody writes."""
    definitions = json.loads(schema_text())["$defs"]
    port = definitions["Http"]["properties"]["write_timeout"]
    assert port["description"] == (
        "How long a client may take to read what was written to it. In seconds. "
        "What it does not read is kept in memory."
    )
    assert port["default"] == 60.0
    assert "null" not in schema_text()


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.name)
def test_an_example_is_right(tmp_path: Path, example: Path) -> None:
    """Issue 5: an annotated example for Forgejo, and one for three servers."""
    text = example.read_text()
    assert text.startswith("#:schema ../docs/broker.schema.json\n")
    assert (example.parent / "../docs/broker.schema.json").is_file()
    configuration = load(tmp_path, text, {"WEATHER_API_KEY": "secret-of-the-weather", "HOME": "/home/me"})
    assert configuration.auth.mode == "keys"


def test_each_user_of_the_forgejo_example_has_a_token_of_their_own(tmp_path: Path) -> None:
    """Issue 5."""
    text = (ROOT / "examples" / "forgejo.toml").read_text()
    (server,) = load(tmp_path, text).servers
    assert server.recipe.per_principal
    assert server.recipe.environment is not None
    assert set(server.recipe.environment.names) == {
        "FORGEJO_URL",
        "FORGEJO_ACCESS_TOKEN",
        "FORGEJO_MCP_ALLOW_FILE_PATH_UPLOAD",
    }


def test_the_three_servers_are_three_kinds(tmp_path: Path) -> None:
    """Issue 5: without a credential, with the operator's, with each user's own."""
    text = (ROOT / "examples" / "three-servers.toml").read_text()
    time, weather, tickets = load(tmp_path, text, {"WEATHER_API_KEY": "x" * 8}).servers
    assert (time.recipe.credentials, time.isolation.level) == (None, "landlock")
    assert weather.recipe.named_secrets == {"weather": "x" * 8}
    assert weather.principals == frozenset({"anna", "ben"})
    assert tickets.recipe.credentials is not None
