"""`stdio-broker config explain`: who reaches what, and with what; names, never values."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from stdio_broker.config.explain import explain
from stdio_broker.supervisor import MINIMAL
from tests.config.files import SERVER, load, secret_file

FILE = """
[http]
allowed_hosts = ["mcp.example"]
allowed_origins = ["https://app.example"]
[limits]
max_sessions = 99
[storage]
url = "postgresql://me:hunter2-db@host/db"
[secrets.s]
file = "secret"
[servers.one]
command = "server-one"
args = ["hunter2-arg"]
principals = ["ben", "anna"]
inherit_env = ["PATH", "LC_*"]
max_children = 7
isolation = { level = "bwrap", network = false }
recovery = "end"
[servers.one.env]
TOKEN = "${credential.token}"
OTHER = "hunter2-inline"
SECRET = "${secret:s}"
[servers.one.credential]
source = "file"
path = "tokens/{principal}"
[servers.two]
command = "server-two"
env = { WHO = "${principal.name}", LANG = "C" }
"""


@pytest.fixture
def told(tmp_path: Path) -> dict[str, str]:
    """What is said of the file above: of the node, and of each server; white space is one blank."""
    secret_file(tmp_path / "secret", "hunter2-file")
    text = explain(load(tmp_path, FILE))
    assert max(map(len, text.splitlines())) <= 110
    return {part.partition(",")[0]: re.sub(r"\s+", " ", part) for part in text.split("\n\n")}


def test_it_says_who_reaches_the_node(told: dict[str, str]) -> None:
    """Issue 5: who can reach what."""
    node = told["The node"]
    assert "at http://127.0.0.1:8080" in node
    assert "whoever has a key of `stdio-broker key create`" in node
    assert "in PostgreSQL" in node
    assert "mcp.example" in node
    assert "https://app.example" in node
    assert "99 sessions" in node


def test_it_says_of_each_server_who_and_with_what(told: dict[str, str]) -> None:
    """Issue 5: per server, with the names of the variables that its children see."""
    one, two = told["one"], told["two"]
    assert "at /one/mcp" in one
    assert "anna, ben; with a key that is not for other servers only" in one
    assert "a file for each principal (file)" in one
    assert 'isolation "bwrap": ' in one
    assert "no network" in one
    assert "7 children" in one
    assert "sets OTHER, SECRET, TOKEN inherits LC_*, PATH; if the broker has them" in one
    assert "or was idle for 1800 s, ends" in one
    assert "everybody with a key, unless the key is for other servers only" in two
    assert "none; its variables depend on who the principal is" in two
    inherited = ", ".join(sorted({*MINIMAL} - {"LANG"}))
    assert f"sets LANG, WHO inherits {inherited}; if the broker has them" in two
    assert "sleeps, and gets a fresh child" in two


def test_it_says_no_value(told: dict[str, str]) -> None:
    """Issue 5: names, never values; arguments are not shown either."""
    assert "hunter2" not in " ".join(told.values())


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ('{ source = "static", value = { env = "HOME" } }', "one for everybody (static)"),
        ('{ source = "env", name = "T_{PRINCIPAL}" }', "a variable of the broker's for each principal (env)"),
        ('{ source = "command", command = ["x"] }', "a command is asked for each principal (command)"),
    ],
)
def test_it_says_which_source_of_credentials_it_is(tmp_path: Path, source: str, words: str) -> None:
    """Issue 5: the kind of the source."""
    text = f'{SERVER}credential = {source}\nenv = {{ T = "${{credential.token}}" }}\n'
    assert words in explain(load(tmp_path, text))


def test_it_says_that_there_is_no_authentication(tmp_path: Path) -> None:
    """Ours: nobody shall find out later."""
    text = explain(load(tmp_path, f'[auth]\nmode = "none"\n{SERVER}'))
    assert "everybody who reaches this address; there is no authentication" in text
    assert "everybody who reaches the address" in text
    assert "none" in text


def test_it_says_where_keys_are(tmp_path: Path) -> None:
    """Ours: the path of a file is no secret."""
    text = explain(load(tmp_path, f'[storage]\nurl = "sqlite:////k.db"\n{SERVER}inherit_env = []\n'))
    assert "in the file /k.db" in text
    assert "inherits        no variable" in text
