"""Configuration files for tests, and what is wrong with them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from stdio_broker.config import Configuration, load_configuration
from stdio_broker.errors import ConfigError

#: The least that is a configuration.
SERVER = '[servers.git]\ncommand = "mcp-server-git"\n'


def load(directory: Path, text: str, environ: Mapping[str, str] | None = None) -> Configuration:
    """Return the configuration that a file with this text makes."""
    file = directory / "broker.toml"
    file.write_text(text, encoding="utf-8")
    return load_configuration(file, {"HOME": str(directory)} if environ is None else environ)


def mistakes(directory: Path, text: str, environ: Mapping[str, str] | None = None) -> list[str]:
    """Return what is wrong with a file, without the directory that it is in."""
    with pytest.raises(ConfigError) as caught:
        load(directory, text, environ)
    return [problem.replace(f"{directory}/", "") for problem in caught.value.problems]


def secret_file(path: Path, content: str = "hunter2-hunter2", mode: int = 0o600) -> Path:
    """Write a file that only its owner may use."""
    path.write_text(content, encoding="utf-8")
    path.chmod(mode)
    return path
