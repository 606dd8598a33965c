"""Whatever stands at whatever key: a configuration, or mistakes that name the key and no secret."""

from __future__ import annotations

import copy
import datetime as dt
import json
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from stdio_broker.config import load_configuration
from stdio_broker.config.keys import Table
from stdio_broker.config.model import File
from stdio_broker.config.overrides import override
from stdio_broker.config.shape import Place
from stdio_broker.config.toml_text import dotted, key, string
from stdio_broker.errors import ConfigError
from tests.config.files import mistakes

CANARY = "hunter2-hunter2"

#: Where values may be secrets, or stand beside some.
HIDDEN = (".env", ".credential", ".command", ".args", "secrets", "storage", ".wrapper")

Path_ = tuple[str, ...]


def keys_of(table: type[Table], path: Path_) -> Iterator[Path_]:
    """Yield every key of a table, and of the tables in it; a table with free names has one."""
    for name in table.model_fields:
        here = (*path, name)
        yield here
        place = Place((), (table,)).key(name)
        assert place is not None
        if place.named is not None:
            place = place.key("git")
            assert place is not None
            here = (*here, "git")
            yield here
        for below in place.tables:
            yield from keys_of(below, here)


KEYS = sorted(set(keys_of(File, ())))


def toml(value: object) -> str:
    """Return a value as TOML has it."""
    match value:
        case str():
            return string(value)
        case Mapping():
            return "{" + ", ".join(f"{key(str(name))} = {toml(item)}" for name, item in value.items()) + "}"
        case list():
            return f"[{', '.join(toml(item) for item in value)}]"
        case dt.date():
            return value.isoformat()
    return repr(value).lower()


def document(path: Path_, value: object) -> str:
    """Return a file in which a value stands at a key, and all else is right, if that is."""
    server: dict[str, object] = {"command": "mcp-server-git"}
    tree: dict[str, object] = {"servers": {"git": server}}
    if path[:3] == ("servers", "git", "credential") and len(path) > 3:
        server["credential"] = copy.deepcopy(_CREDENTIALS[path[3]])
        server["env"] = {"TOKEN": "${credential.token}"}
    if path[:2] == ("secrets", "git"):
        server["env"] = {"SECRET": "${secret:git}"}
    node = tree
    for part in path[:-1]:
        below = node.setdefault(part, {})
        assert isinstance(below, dict)
        node = below
    node[path[-1]] = value
    return "".join(f"{key(name)} = {toml(item)}\n" for name, item in tree.items())


_STATIC = {"source": "static", "value": {"env": "HOME"}}
_FILE = {"source": "file", "path": "tokens"}
_ENV = {"source": "env", "name": "TOKEN_{PRINCIPAL}"}
_COMMAND = {"source": "command", "command": ["print"]}

#: For each key of a credential, one that has it.
_CREDENTIALS: dict[str, Mapping[str, object]] = {
    **dict.fromkeys(("source", "path"), _FILE),
    **dict.fromkeys(("command", "env", "timeout", "ttl"), _COMMAND),
    "value": _STATIC,
    "name": _ENV,
}

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20).map(lambda text: CANARY + text)
scalars = (
    texts
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.dates(min_value=dt.date(1000, 1, 1))
    | st.sampled_from(
        ["", "none", "keys", "limits", "bwrap", "replay", "minimal", "all", "static", "\0", "~", "{cmd}"]
    )
    | st.sampled_from(["${credential.token}", "${secret:x}", "${", "sqlite:///x", "postgresql://a:b@/[", "/"])
)
values = (
    scalars
    | st.lists(scalars, max_size=3)
    | st.dictionaries(texts | st.sampled_from(["file", "env"]), scalars, max_size=2)
)


def told(directory: Path, text: str) -> list[str]:
    """Return what is said of a file; nothing of one that is right."""
    file = directory / "broker.toml"
    file.write_text(text, encoding="utf-8")
    try:
        load_configuration(file, {"HOME": "/"})
    except ConfigError as exc:
        return [problem.removeprefix(f"{file}: ") for problem in exc.problems]
    return []


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("config")


@settings(max_examples=600, deadline=None)
@given(path=st.sampled_from(KEYS), value=values)
@example(path=("servers", "git", "command"), value=CANARY + " x")
@example(path=("servers", "git", "isolation"), value={"level": CANARY})
@example(path=("storage", "url"), value=f"postgresql://me:{CANARY}/@host")
def test_any_value_at_any_key_is_right_or_told(directory: Path, path: Path_, value: object) -> None:
    """Issue 5: a mistake names the key and never a secret; and there is no traceback, whatever it is."""
    problems = told(directory, document(path, value))
    name = dotted(path)
    table = dotted(path[:-1])
    if problems:
        assert [problem for problem in problems if problem.startswith((name, f"{table}:", f"{table}."))], (
            problems
        )
    if any(part in name for part in HIDDEN):
        # Names of keys are told; a value never is.
        assert CANARY not in " ".join(problem.partition(": ")[2] for problem in problems)


@pytest.mark.parametrize("path", KEYS, ids=dotted)
def test_a_value_of_no_kind_that_is_expected_is_told_with_its_key(tmp_path: Path, path: Path_) -> None:
    """Issue 5: each key, by itself. There is none that may be a date."""
    problems = mistakes(tmp_path, document(path, dt.date(1979, 5, 27)))
    named = [problem for problem in problems if problem.startswith(f"broker.toml: {dotted(path)}: expected ")]
    assert len(named) == 1, problems
    assert named[0].endswith("found a date or time")


@settings(max_examples=300, deadline=None)
@given(text=st.text(max_size=60) | st.binary(max_size=60).map(lambda data: data.decode("latin-1")))
def test_any_text_is_a_configuration_or_a_mistake(directory: Path, text: str) -> None:
    """Ours: never a traceback."""
    file = directory / "any.toml"
    file.write_bytes(text.encode("utf-8", "surrogatepass"))
    with pytest.raises(ConfigError) as caught:
        load_configuration(file, {})
    assert all(str(file) in problem for problem in caught.value.problems)


@settings(max_examples=300, deadline=None)
@given(
    parts=st.lists(
        st.sampled_from(["HTTP", "PORT", "SERVERS", "GIT", "ENV", "", "X", "STORAGE", "URL"]), max_size=5
    ),
    value=st.text(st.characters(exclude_categories=["Cs"]), max_size=20).map(lambda text: CANARY + text),
)
def test_any_variable_is_an_override_or_a_mistake(parts: list[str], value: str) -> None:
    """Ours: never a traceback; and the tree that was given is as it was."""
    tree = {"servers": {"git": {"command": "x", "env": {}}}}
    before = json.dumps(tree)
    overridden = override(tree, File, {f"STDIO_BROKER_{'__'.join(parts)}": value})
    assert json.dumps(tree) == before
    assert CANARY not in " ".join(overridden.problems)
    assert len(overridden.problems) + len(overridden.variables) <= 1


def test_there_are_keys() -> None:
    """Ours: the tests above would be green without any."""
    assert {("http", "port"), ("servers", "git", "env", "git", "file"), ("secrets", "git", "env")} <= set(
        KEYS
    )
    assert len(KEYS) > 90
