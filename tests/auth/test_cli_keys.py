"""`stdio-broker key`, as an operator meets it."""

import json
import re
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from stdio_broker.auth.keys import is_well_formed, new_key
from stdio_broker.cli.keys import key_commands
from tests.auth.programs import FINISH_TIMEOUT

Key = Callable[..., Result]


@pytest.fixture
def key(tmp_path: Path) -> Key:
    """Return what runs `stdio-broker key` on a database of its own."""

    def run(*arguments: str, text: str | None = None) -> Result:
        storage = ("--storage", f"sqlite:///{tmp_path}/broker.db")
        return CliRunner().invoke(key_commands, [*arguments, *storage], input=text)

    return run


def _listed(key: Key) -> list[dict[str, object]]:
    listed: list[dict[str, object]] = json.loads(key("list", "--json").stdout)
    return listed


def test_create_prints_the_key_and_nothing_else_on_stdout(key: Key) -> None:
    """Issue 5: so that it can be piped."""
    result = key("create", "--principal", "alice")
    assert result.exit_code == 0
    assert re.fullmatch(r"stdiob_key_[0-9A-Za-z]{49}\n", result.stdout)
    assert is_well_formed(result.stdout.rstrip())
    (listed,) = _listed(key)
    assert str(listed["id"]) in result.stderr
    assert "Authorization: Bearer KEY" in result.stderr
    assert result.stdout.rstrip() not in result.stderr


def test_the_list_shows_what_was_said_of_a_key_but_not_the_key(key: Key) -> None:
    before = datetime.now(UTC).replace(microsecond=0)
    options = ("--server", "git", "--server", "forgejo", "--expires", "30d", "--note", "my laptop")
    text = key("create", "--principal", "alice", *options).stdout.rstrip()
    (listed,) = _listed(key)
    created, expires = (datetime.fromisoformat(str(listed[name])) for name in ("created_at", "expires_at"))
    assert before <= created <= datetime.now(UTC)
    assert abs(expires - created - timedelta(days=30)) <= timedelta(seconds=1)
    assert {name: value for name, value in listed.items() if not name.endswith("_at") and name != "id"} == {
        "principal": "alice",
        "servers": ["forgejo", "git"],
        "state": "live",
        "note": "my laptop",
    }
    assert listed["revoked_at"] is None
    table = key("list").stdout
    assert re.search(
        rf"^{listed['id']}  alice      live   \S+Z  \S+Z  forgejo,git  my laptop$", table, re.MULTILINE
    )
    assert text not in table


def test_a_note_cannot_paint_on_the_terminal(key: Key) -> None:
    key("create", "--principal", "alice", "--note", "\x1b[31mred\nID")
    assert key("list").stdout.splitlines()[1].endswith(r"red\x0aID")
    assert len(key("list").stdout.splitlines()) == 2


def test_a_key_is_revoked_by_its_id(key: Key) -> None:
    key("create", "--principal", "alice")
    key("create", "--principal", "alice")
    first, second = _listed(key)
    result = key("revoke", str(first["id"]))
    assert (result.exit_code, result.stdout) == (0, f"revoked {first['id']} of alice\n")
    assert [listed["state"] for listed in _listed(key)] == ["revoked", "live"]
    assert key("revoke", str(first["id"])).exit_code == 0  # it is what was wanted
    assert [listed["id"] for listed in _listed(key)] == [first["id"], second["id"]]


def test_all_keys_of_a_user_are_revoked(key: Key) -> None:
    for principal in ("alice", "bob", "alice"):
        key("create", "--principal", principal)
    result = key("revoke", "--principal", "alice")
    assert result.exit_code == 0
    assert len(result.stdout.splitlines()) == 2
    states = {(listed["principal"], listed["state"]) for listed in _listed(key)}
    assert states == {("alice", "revoked"), ("bob", "live")}


def test_a_key_that_was_found_somewhere_is_revoked_by_its_text(key: Key) -> None:
    """Ours: the text comes on stdin, where no shell and no process list sees it."""
    text = key("create", "--principal", "alice").stdout
    result = key("revoke", "--from-stdin", text=f"  {text}\n")
    assert result.exit_code == 0
    assert text.rstrip() not in result.output
    assert _listed(key)[0]["state"] == "revoked"


def test_on_the_command_line_a_typo_is_told_from_an_unknown_key(key: Key) -> None:
    """Issue 5; over HTTP the two are alike."""
    unknown = new_key().text
    result = key("revoke", "--from-stdin", text=unknown)
    assert (result.exit_code, "there is no such key" in result.stderr) == (1, True)
    result = key("revoke", "--from-stdin", text=unknown[:-1])
    assert (result.exit_code, "has a typo in it" in result.stderr) == (1, True)
    assert unknown[:-1] not in result.output


@pytest.mark.parametrize("arguments", [("nosuchid",), ("--principal", "nobody")])
def test_what_does_not_exist_cannot_be_revoked(key: Key, arguments: tuple[str, ...]) -> None:
    result = key("revoke", *arguments)
    assert (result.exit_code, result.stdout) == (1, "")
    assert "there is no such key" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("create",), "--principal"),
        (("create", "--principal", "../alice"), "expected 1 to 128 letters"),
        (("create", "--principal", "alice", "--expires", "30"), "such as 12h or 30d, found '30'"),
        (("create", "--principal", "alice", "--expires", "0d"), "such as 12h or 30d, found '0d'"),
        (("create", "--principal", "alice", "--expires", "101w5d"), "such as 12h or 30d"),
        (("create", "--principal", "alice", "--expires", "999999d"), "such as 12h or 30d"),
        (("create", "--principal", "alice", "--server", "Git/"), "expected a name of 1 to"),
        (("revoke",), "expected one of ID, --principal NAME and --from-stdin"),
        (("revoke", "id", "--principal", "alice"), "expected one of ID"),
        (("revoke", "stdiob_key_abc"), "that is a key, not the id of one"),
        (("list", "--config", __file__), "expected --config or --storage, found both"),
    ],
)
def test_wrong_usage_is_exit_code_2(key: Key, arguments: tuple[str, ...], expected: str) -> None:
    """Design, section 5."""
    result = key(*arguments)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert expected in result.stderr


@pytest.mark.parametrize(
    ("duration", "seconds"), [("45s", 45), ("90m", 5400), ("12h", 43200), ("30d", 2592000), ("2w", 1209600)]
)
def test_a_duration_has_a_unit(key: Key, duration: str, seconds: int) -> None:
    assert key("create", "--principal", "alice", "--expires", duration).exit_code == 0
    (listed,) = _listed(key)
    created, expires = (datetime.fromisoformat(str(listed[name])) for name in ("created_at", "expires_at"))
    assert abs((expires - created).total_seconds() - seconds) <= 1


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://user:canary@host/database",
        "postgresql://user@host/database?password=canary",
        "mysql://user:canary@host/database",
    ],
)
def test_a_password_on_the_command_line_is_refused(url: str) -> None:
    """Ours: all users of the machine can see it there."""
    result = CliRunner().invoke(key_commands, ["list", "--storage", url])
    assert result.exit_code == 2
    assert "other users of this machine can see a password here" in result.stderr
    assert "canary" not in result.output


@pytest.mark.parametrize(
    ("url", "code"),
    [("mysql://host/database", 2), ("http://[", 2), ("sqlite:////dev/null/broker.db", 1)],
)
def test_a_database_that_cannot_be_used_is_told(url: str, code: int) -> None:
    result = CliRunner().invoke(key_commands, ["list", "--storage", url])
    assert result.exit_code == code
    assert result.stderr.startswith("stdio-broker: ")
    assert "Traceback" not in result.output


def test_the_configuration_says_where_the_keys_are(tmp_path: Path) -> None:
    """Issue 5: [storage]."""
    config = tmp_path / "broker.toml"
    config.write_text('[storage]\nurl = "sqlite:///keys/broker.db"\n')
    made = CliRunner().invoke(key_commands, ["create", "--principal", "alice", "--config", str(config)])
    assert made.exit_code == 0, made.output
    assert (tmp_path / "keys" / "broker.db").exists()
    listed = CliRunner().invoke(key_commands, ["list", "--json", "--config", str(config)])
    assert json.loads(listed.stdout)[0]["principal"] == "alice"


def test_without_options_the_keys_are_where_a_broker_without_storage_looks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert CliRunner().invoke(key_commands, ["create", "--principal", "alice"]).exit_code == 0
    assert (tmp_path / "stdio-broker" / "broker.db").exists()


def test_other_commands_do_not_load_the_database_library() -> None:
    """Ours: it costs 20 MB and a third of a second, and `run` needs none."""
    code = (
        "import sys, stdio_broker.cli.keys; print([m for m in ('sqlalchemy', 'alembic') if m in sys.modules])"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=FINISH_TIMEOUT
    )
    assert result.stdout == "[]\n"
