"""`stdio-broker import` and `stdio-broker config`: what they print, and their exit codes."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from stdio_broker.cli.configuration import config_group, import_command
from tests.config.documents import SCHEMA
from tests.config.files import SERVER

CLIENT = json.dumps({"mcpServers": {"Git": {"command": "x"}, "far": {"url": "https://x"}}})


def imported(*arguments: object) -> Result:
    return CliRunner().invoke(import_command, [str(argument) for argument in arguments])


@pytest.fixture
def client(tmp_path: Path) -> Path:
    file = tmp_path / "client.json"
    file.write_text(CLIENT)
    return file


def test_import_prints_the_file_and_says_what_it_left_out(client: Path) -> None:
    """design.md, 5: `stdio-broker import FILE.json`."""
    result = imported(client)
    assert result.exit_code == 0
    assert "[servers.git]" in result.stdout
    assert result.stderr.startswith('stdio-broker: "far" was left out: ')


def test_import_writes_a_new_file_only(client: Path, tmp_path: Path) -> None:
    """Ours: what is there already may have taken somebody an afternoon."""
    output = tmp_path / "broker.toml"
    assert imported(client, "--output", output).exit_code == 0
    assert "[servers.git]" in output.read_text()
    again = imported(client, "-o", output)
    assert (again.exit_code, again.stderr) == (1, f"stdio-broker: {output}: cannot be written: File exists\n")


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"\xff", "expected UTF-8, found other bytes"),
        (b"{}", 'expected an object with "mcpServers" (or "servers"), found none'),
    ],
)
def test_import_fails_with_2_where_there_is_nothing(tmp_path: Path, content: bytes, told: str) -> None:
    """design.md, 5: exit codes."""
    file = tmp_path / "client.json"
    file.write_bytes(content)
    result = imported(file)
    assert (result.exit_code, result.stderr) == (2, f"stdio-broker: {file}: {told}\n")
    assert imported(tmp_path / "missing.json").exit_code == 2


def test_import_fails_with_2_where_it_cannot_read(client: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same."""

    def refuse(_path: Path) -> bytes:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(Path, "read_bytes", refuse)
    result = imported(client)
    assert (result.exit_code, result.stderr) == (
        2,
        f"stdio-broker: {client}: cannot be read: Permission denied\n",
    )


def test_explain_prints_what_a_file_means(tmp_path: Path) -> None:
    """Issue 5: `config explain`."""
    file = tmp_path / "broker.toml"
    file.write_text(SERVER)
    result = CliRunner().invoke(config_group, ["explain", "--config", str(file)])
    assert result.exit_code == 0
    assert "git, at /git/mcp" in result.stdout


def test_explain_tells_every_mistake(tmp_path: Path) -> None:
    """design.md, 5: 2, and every mistake with file and key."""
    file = tmp_path / "broker.toml"
    file.write_text("[http]\nport = 'x'\n[servers.git]\n")
    result = CliRunner().invoke(config_group, ["explain", "--config", str(file)])
    assert result.exit_code == 2
    assert result.stderr == (
        f'stdio-broker: {file}: http.port: expected a whole number, 0 to 65535, found "x"\n'
        f"stdio-broker: {file}: servers.git.command: missing; expected a text\n"
    )


def test_schema_prints_the_schema() -> None:
    """Issue 5: the JSON Schema, for editors."""
    result = CliRunner().invoke(config_group, ["schema"])
    assert (result.exit_code, result.stdout) == (0, SCHEMA.read_text())


def test_run_starts_without_what_reads_files() -> None:
    """Ours: pydantic and the database cost as much time to import as all the rest."""
    program = (
        "import sys, stdio_broker.cli\n"
        "heavy = {'pydantic', 'sqlalchemy', 'alembic', 'aiosqlite', 'jsonschema'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
