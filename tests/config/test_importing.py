"""`stdio-broker import`: a client's file becomes a configuration that can be loaded, and holds no secret."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from stdio_broker.config import Configuration
from stdio_broker.config.importing import Import, import_servers
from stdio_broker.config.jsonc import parse_jsonc
from stdio_broker.config.secrecy import is_token, names_secret
from stdio_broker.errors import ConfigError
from tests.config.files import load


def imported(servers: Mapping[str, object], **more: object) -> Import:
    """Return what comes of a file with these servers."""
    return import_servers(json.dumps({"mcpServers": servers, **more}))


def wanted(text: str) -> dict[str, str]:
    """Return an environment with every variable that a configuration file asks for."""
    tree = tomllib.loads(text)
    values = list(tree.get("secrets", {}).values())
    for server in tree["servers"].values():
        values += [value for value in server.get("env", {}).values() if isinstance(value, dict)]
    return {"HOME": "/home/me"} | {value["env"]: f"value of {value['env']}" for value in values}


def loaded(directory: Path, result: Import) -> Configuration:
    """Return the configuration that a result makes, with what it asks for."""
    return load(directory, result.text, wanted(result.text))


async def environment(directory: Path, result: Import) -> dict[str, str | None]:
    """Return the variables that a child of the first server would get."""
    recipe = loaded(directory, result).servers[0].recipe
    return dict((await recipe.sample()).config.env)


REMOTE = "it is not a stdio server, but reached over HTTP; clients can use it as it is"

CLAUDE_DESKTOP = """
{
  "mcpServers": {
    "filesystem": {
      "command": "npx",
      "args": ["-y", "@modelcontextprotocol/server-filesystem", "/Users/me/Desktop"]
    },
    "GitHub (work)": {
      "command": "npx",
      "args": ["-y", "@modelcontextprotocol/server-github"],
      "env": { "GITHUB_PERSONAL_ACCESS_TOKEN": "hunter2-hunter2", "GITHUB_HOST": "https://git.example" }
    }
  }
}
"""

CURSOR = """
{
  // comments, and commas too many
  "mcpServers": {
    "forgejo": {
      "type": "stdio",
      "command": "forgejo-mcp --transport stdio",
      "env": { "FORGEJO_ACCESS_TOKEN": "${env:FORGEJO}", },
    },
    "remote": { "url": "https://mcp.example/mcp" },
    "other": { "type": "http", "url": "https://mcp.example/", "headers": { "Authorization": "hunter2" } },
  },
}
"""

CODE = """
{
  "inputs": [{ "id": "api-key", "type": "promptString", "description": "Key of\\nthe API" }],
  "servers": {
    "perplexity": {
      "type": "stdio", "command": "docker", "args": ["run", "-i", "--rm", "-e", "KEY", "image"],
      "env": {
        "KEY": "${input:api-key}",
        "URL": "https://x/${input:api-key}/${env:REGION}",
        "DIR": "${workspaceFolder}/x"
      },
      "envFile": "${workspaceFolder}/.env"
    }
  }
}
"""


def test_a_file_of_claude_desktop_becomes_a_configuration(tmp_path: Path) -> None:
    """docs/configuration.md, "From a client's file"."""
    result = import_servers(CLAUDE_DESKTOP)
    configuration = loaded(tmp_path, result)
    assert [server.path for server in configuration.servers] == ["/filesystem/mcp", "/github-work/mcp"]
    assert tuple(configuration.servers[0].recipe.config.cmd) == (
        "npx",
        "-y",
        "@modelcontextprotocol/server-filesystem",
        "/Users/me/Desktop",
    )
    assert result.notes == ()
    assert "hunter2" not in result.text
    assert '# It was called "GitHub (work)".' in result.text
    assert 'GITHUB_PERSONAL_ACCESS_TOKEN = { env = "GITHUB_PERSONAL_ACCESS_TOKEN" }' in result.text
    assert '"${credential.token}"' in result.text
    assert 'GITHUB_HOST = "https://git.example"' in result.text


async def test_a_file_of_cursor_becomes_a_configuration(tmp_path: Path) -> None:
    """The same, with comments; a command with its arguments in it; and servers that need no broker."""
    result = import_servers(CURSOR)
    configuration = loaded(tmp_path, result)
    assert [tuple(server.recipe.config.cmd) for server in configuration.servers] == [
        ("forgejo-mcp", "--transport", "stdio")
    ]
    assert await environment(tmp_path, result) == {"FORGEJO_ACCESS_TOKEN": "value of FORGEJO"}
    assert [note.partition(":")[0] for note in result.notes] == [
        '"remote" was left out',
        '"other" was left out',
    ]
    assert "hunter2" not in result.text + str(result.notes)


async def test_a_file_of_visual_studio_code_becomes_a_configuration(tmp_path: Path) -> None:
    """The same, with inputs: what the editor asks its user for is a secret of the operator's."""
    result = import_servers(CODE)
    assert await environment(tmp_path, result) == {
        "KEY": "value of API_KEY",
        "URL": "https://x/value of API_KEY/value of REGION",
        "DIR": "${workspaceFolder}/x",
    }
    assert "# The editor asked for it: Key of the API" in result.text
    assert '# Not taken over: "envFile".' in result.text
    assert "change it" in result.text
    nested = import_servers(json.dumps({"mcp": parse_jsonc(CODE)}))
    assert nested == result


@pytest.mark.parametrize(
    ("name", "ours"),
    [
        ("git", "git"),
        ("My  Git_Server", "my-git-server"),
        ("io.github.owner/name", "io-github-owner-name"),
        ("--", "server"),
        ("Größe", "gr-e"),
        ("token", "token-server"),
        ("x" * 100, "x" * 56),
    ],
)
def test_a_name_becomes_a_part_of_a_url(tmp_path: Path, name: str, ours: str) -> None:
    """docs/configuration.md: `[servers.NAME]`."""
    configuration = loaded(tmp_path, imported({name: {"command": "x"}}))
    assert configuration.servers[0].recipe.name == ours


def test_names_that_become_the_same_are_kept_apart(tmp_path: Path) -> None:
    """Ours: no server is lost."""
    result = imported({name: {"command": name} for name in ("a b", "A B", "a-b", "a-b-2")})
    configuration = loaded(tmp_path, result)
    assert [server.recipe.name for server in configuration.servers] == ["a-b", "a-b-2", "a-b-3", "a-b-2-2"]
    assert [server.recipe.config.cmd[0] for server in configuration.servers[2:]] == ["a-b", "a-b-2"]


async def test_secrets_of_one_name_are_kept_apart(tmp_path: Path) -> None:
    """Ours: two servers have a TOKEN, and it is not the same."""
    servers = {name: {"command": "x", "env": {"TOKEN": f"hunter2-{name}"}} for name in ("one", "two")}
    servers["three"] = servers["one"]
    result = imported(servers)
    configuration = loaded(tmp_path, result)
    values = [dict((await server.recipe.sample()).config.env)["TOKEN"] for server in configuration.servers]
    assert values == ["value of TOKEN", "value of TOKEN_TWO", "value of TOKEN"]
    assert "hunter2" not in result.text


@pytest.mark.parametrize(
    ("value", "ours"),
    [
        ("plain", "plain"),
        ("pa$$word$", "pa$$word$"),
        ("$${env:A}$", "$value of A$"),
        ("${env:A}${B}", "value of Avalue of B"),
        ("${A:-/usr}/bin", "/usr/bin"),
        ("${userHome}", "${userHome}"),
        ("${", "${"),
        ('"quoted"\\\n\t\x7f', '"quoted"\\\n\t\x7f'),
        (True, "true"),
        (3, "3"),
        ("", ""),
    ],
)
async def test_a_value_means_the_same(tmp_path: Path, value: object, ours: str) -> None:
    """Ours: what clients put in, we put in; everything else is text."""
    result = imported({"git": {"command": "x", "env": {"V": value}}})
    assert await environment(tmp_path, result) == {"V": ours}


def test_a_value_that_is_a_secret_by_its_form_is_not_copied() -> None:
    """Ours: whatever the variable is called; a URL with a password in it, too."""
    env = {"A": "ghp_0123456789abcdef0123456789abcdef0123", "B": "postgresql://me:hunter2@host/db"}
    text = imported({"git": {"command": "x", "env": env}}).text
    assert "ghp_" not in text
    assert "hunter2" not in text
    assert 'A = { env = "A" }' in text


async def test_a_variable_that_there_cannot_be_is_left_out(tmp_path: Path) -> None:
    """Ours: with a comment; the others are there."""
    env: dict[str, object] = {"A B": "1", "NULL": None, "LIST": [], "NUL": "\0", "FINE": "1"}
    result = imported({"git": {"command": "x", "env": env}})
    assert await environment(tmp_path, result) == {"FINE": "1"}
    assert result.text.count("# Left out") == 4


@pytest.mark.parametrize(
    ("args", "ours"),
    [
        (["--api-key", "hunter2", "b"], ("--api-key", "CHANGE-ME", "b")),
        (["--token=hunter2"], ("--token=CHANGE-ME",)),
        (["-e", "API_KEY=hunter2"], ("-e", "API_KEY=CHANGE-ME")),
        (["-e", "API_KEY="], ("-e", "API_KEY=")),
        (["ghp_0123456789abcdef0123456789abcdef0123"], ("CHANGE-ME",)),
        (["postgresql://me:hunter2@host/db"], ("CHANGE-ME",)),
        (["--key-file", "/etc/key"], ("--key-file", "/etc/key")),
        (["--author", "Anna"], ("--author", "Anna")),
        (["${workspaceFolder}/a"], ("CHANGE-ME/a",)),
        (["${unclosed"], ("CHANGE-MEunclosed",)),
        (["a\0b"], ("CHANGE-ME",)),
        (["it's", 'a "quoted" one'], ("it's", 'a "quoted" one')),
    ],
)
def test_an_argument_is_kept_unless_it_cannot_be_one(
    tmp_path: Path, args: list[str], ours: tuple[str, ...]
) -> None:
    """docs/configuration.md: everybody on the machine can read the arguments of a process."""
    result = imported({"git": {"command": "x", "args": args}})
    assert tuple(loaded(tmp_path, result).servers[0].recipe.config.cmd) == ("x", *ours)
    assert "hunter2" not in result.text
    assert ("# CHANGE-ME" in result.text) is any("CHANGE-ME" in arg for arg in ours)


@pytest.mark.parametrize(
    ("command", "ours"),
    [
        ("npx -y 'a b'", ("npx", "-y", "a b")),
        ("npx 'open", ("npx", "'open")),
        ("/opt/my app/server", ("/opt/my app/server",)),
        ("${workspaceFolder}/server", ("CHANGE-ME",)),
    ],
)
def test_a_command_is_a_program_alone(tmp_path: Path, command: str, ours: tuple[str, ...]) -> None:
    """docs/configuration.md: no shell is involved."""
    result = imported({"git": {"command": command}})
    assert tuple(loaded(tmp_path, result).servers[0].recipe.config.cmd) == ours


def test_a_home_is_written_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same: nobody expands a ~."""
    monkeypatch.setenv("HOME", str(tmp_path))
    result = imported({"git": {"command": "~/bin/server", "cwd": "~"}})
    child = loaded(tmp_path, result).servers[0].recipe.config
    assert (child.cmd[0], child.cwd) == (f"{tmp_path}/bin/server", tmp_path)


@pytest.mark.parametrize(
    "cwd", ["/nowhere/at/all", "relative", "${workspaceFolder}", "\0", "a\nb = 1", 3, ""]
)
def test_a_directory_that_is_not_there_is_a_comment(tmp_path: Path, cwd: object) -> None:
    """Ours: the file was written on another machine, perhaps."""
    result = imported({"git": {"command": "x", "cwd": cwd}})
    assert loaded(tmp_path, result).servers[0].recipe.config.cwd is None


@pytest.mark.parametrize(
    ("entry", "why"),
    [
        ("x", "expected an object"),
        ({}, "it has no `command`"),
        ({"command": " "}, "it has no `command`"),
        ({"command": ["x"]}, "it has no `command`"),
        ({"command": "x", "args": "y"}, "expected `args` to be a list of texts"),
        ({"command": "x", "args": [1]}, "expected `args` to be a list of texts"),
        ({"command": "x", "env": []}, "expected `env` to be an object"),
        ({"command": "x", "disabled": True}, "it is disabled in the file"),
        (
            {"command": "x", "type": "sse"},
            REMOTE,
        ),
    ],
)
def test_an_entry_that_cannot_be_taken_over_is_told(tmp_path: Path, entry: object, why: str) -> None:
    """Ours: the rest of the file is taken over; and of nothing at all there is no configuration."""
    result = imported({"odd\n": entry, "git": {"command": "x"}})
    assert result.notes == (f'"odd\\n" was left out: {why}',)
    assert len(loaded(tmp_path, result).servers) == 1
    with pytest.raises(ConfigError) as caught:
        imported({"odd\n": entry})
    assert caught.value.problems == ("expected a stdio server, with a `command`; found none", *result.notes)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "expected JSON, found something else: line 1: Expecting value (column 1)"),
        ("[1,\n  nonsense]", "expected JSON, found something else: line 2: Expecting value (column 3)"),
        ("[" * 100_000, "expected JSON, found something else: lists or objects are nested too deeply"),
        ("[]", 'expected an object with "mcpServers" (or "servers"), found none'),
        ('{"mcpServers": []}', 'expected an object with "mcpServers" (or "servers"), found none'),
    ],
)
def test_what_is_no_such_file_is_told(text: str, problem: str) -> None:
    """Ours: with the line."""
    with pytest.raises(ConfigError) as caught:
        import_servers(text)
    assert caught.value.problems == (problem,)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (
            '{"a": "http://x//y /* n */", /* z\n*/ "b": [1, /*x*/ ], "c": "\\"//", // t\n}',
            {"a": "http://x//y /* n */", "b": [1], "c": '"//'},
        ),
        ("\ufeff[1,2,]//", [1, 2]),
        ("/**/[/* * / **/]", []),
    ],
)
def test_comments_and_commas_too_many_are_none(text: str, value: object) -> None:
    """Visual Studio Code: "JSON with Comments"."""
    assert parse_jsonc(text) == value


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(),
        lambda below: st.lists(below) | st.dictionaries(st.text(), below),
    )
)
def test_json_means_what_it_means(value: object) -> None:
    """RFC 8259: without comments it is JSON."""
    assert parse_jsonc(json.dumps(value)) == value
    assert parse_jsonc(json.dumps(value, indent=1, ensure_ascii=False)) == value


names = st.text(max_size=8) | st.sampled_from(["TOKEN", "A_KEY", "V", "command"])
texts = st.text(max_size=12) | st.sampled_from(
    ["${input:x}", "$${env:A}", "${B:-c}", "a${", "--token", "~", "x y"]
)
entries = st.fixed_dictionaries(
    {"command": texts},
    optional={
        "args": st.lists(texts, max_size=3),
        "env": st.dictionaries(names, texts | st.integers() | st.none(), max_size=4),
        "cwd": texts,
        "type": texts,
        "disabled": st.booleans(),
        "x\n": st.none(),
    },
)


@settings(max_examples=300, deadline=None)
@given(servers=st.dictionaries(names, entries, max_size=4))
@example(servers={"\ud800\n": {"command": "\x7f\ud800", "env": {"A": "\x7f\r\n\ud800"}, "cwd": "\n[x]"}})
def test_whatever_the_file_has_the_result_can_be_loaded(
    tmp_path_factory: pytest.TempPathFactory, servers: dict[str, object]
) -> None:
    """docs/configuration.md: a configuration file, whatever stands in the client's."""
    try:
        result = imported(servers, inputs=[{"id": "x", "description": "d\nd"}, 3])
    except ConfigError:
        return
    configuration = loaded(tmp_path_factory.getbasetemp(), result)
    assert len(configuration.servers) + len(result.notes) == len(servers)


@pytest.mark.parametrize(
    "name", ["TOKEN", "githubToken", "API_KEY", "apikey", "x-auth", "PGPASSWORD", "PASS", "--pat"]
)
def test_a_name_of_a_secret_is_known(name: str) -> None:
    """Ours: what such a variable holds is not copied."""
    assert names_secret(name)


@pytest.mark.parametrize(
    "name", ["AUTHOR", "GIT_AUTHOR_NAME", "KEYCLOAK_URL", "--path", "PASSIVE", "keys_dir", ""]
)
def test_a_name_that_has_such_letters_is_none(name: str) -> None:
    """Ours: nobody has to set what was right already."""
    assert not names_secret(name)


@pytest.mark.parametrize(
    "value",
    [
        "ghp_0123456789abcdef0123456789abcdef0123",
        "glpat-0123456789abcdef0123",
        "sk-ant-0123456789abcdef",
        "0123456789abcdef0123456789abcdef01234567",
        "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2ln",
        "stdiob_key_0123",
        "redis://:pw@host",
        "Bearer 0123456789abcdef",
    ],
)
def test_a_secret_is_known_by_its_form(value: str) -> None:
    """Ours: whatever the variable is called."""
    assert is_token(value)
    assert not is_token(value[:6])
