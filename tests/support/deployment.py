"""What somebody has who serves a team: a configuration file, files with secrets, and keys of users."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path

from tests.support.broker_process import broker_command
from tests.support.edge import CHILD
from tests.support.mcp_client import McpClient, Message
from tests.support.modern_client import ModernClient
from tests.support.nodes import bearer_http

__all__ = ["Deployment", "legacy", "modern", "server_table", "stdio_broker"]

#: Seconds that a command may take which starts nothing.
COMMAND_TIMEOUT = 30.0


def stdio_broker(
    *arguments: str, env: Mapping[str, str] | None = None, stdin: str = "", timeout: float = COMMAND_TIMEOUT
) -> subprocess.CompletedProcess[str]:
    """Run a command of `stdio-broker` to its end."""
    return subprocess.run(
        broker_command(*arguments),
        env={**os.environ, **(env or {})},
        input=stdin,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


def server_table(name: str, *modes: str, lines: str = "", command: tuple[str, ...] = CHILD) -> str:
    """Return the table of a server whose children are `mcp_child.py` in these modes.

    Args:
        name: The server's.
        modes: Words of its command line.
        lines: Further lines of the table.
        command: Another program.
    """
    program, *arguments = (*command, *modes)
    # JSON's texts and lists are TOML's too.
    head = f"[servers.{name}]\ncommand = {json.dumps(program)}\nargs = {json.dumps(arguments)}\n"
    return f"{head}{lines}\n"


class Deployment:
    """A directory with a configuration file and what belongs to it.

    Args:
        directory: Where.

    Attributes:
        config: The configuration file.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.config = directory / "broker.toml"

    def write(self, *tables: str, mode: str = "keys", limits: str = "") -> None:
        """Write the configuration file, as editors do: another file takes its place.

        Args:
            tables: Of servers, and others.
            mode: How users are authenticated.
            limits: Lines of the table `limits`.
        """
        head = f'[http]\nport = 0\n[auth]\nmode = "{mode}"\n[limits]\n{limits}\n'
        self.write_text(head + '[storage]\nurl = "sqlite:///keys.db"\n' + "".join(tables))

    def write_text(self, text: str) -> None:
        """Write the configuration file as it is given, in the same way."""
        new = self.directory / "broker.toml.new"
        new.write_text(text)
        new.rename(self.config)

    def secret(self, name: str, value: str) -> Path:
        """Write a file with a secret, or another one in its place; return its path."""
        path = self.directory / name
        path.parent.mkdir(exist_ok=True)
        new = self.directory / "secret.new"
        new.touch(mode=0o600)
        new.write_text(f"{value}\n")
        new.rename(path)
        return path

    def key(self, principal: str, *options: str) -> str:
        """Make a key for somebody, by the command; return it."""
        done = stdio_broker("key", "create", "--principal", principal, "--config", str(self.config), *options)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def revoke(self, *arguments: str) -> None:
        """Revoke keys, by the command."""
        done = stdio_broker("key", "revoke", "--config", str(self.config), *arguments)
        assert done.returncode == 0, done.stderr


def legacy(url: str, server: str, key: str | None) -> McpClient:
    """Return a client of a server, without a session.

    Args:
        url: Where the broker is, without a path.
        server: The server's name.
        key: What it presents; None is nothing.
    """
    return McpClient(f"{url}/{server}/mcp", bearer_http(key))


def modern(url: str, server: str, key: str | None, *, capabilities: Message | None = None) -> ModernClient:
    """Return a client of a server that needs no session; see `legacy`."""
    return ModernClient(f"{url}/{server}/mcp", bearer_http(key), capabilities=capabilities)
