"""Every event of the log is explained to whoever reads it."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

PROJECT = Path(__file__).parents[1]
LEVELS = {"debug", "info", "warning", "error", "exception"}


def events() -> Iterator[str]:
    """Yield the name of each event that our code logs."""
    for file in (PROJECT / "src").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Attribute)
                and node.func.attr in LEVELS
                and isinstance(node.func.value, ast.Name)
                and node.func.value.id == "logger"
            ):
                name = getattr(node.args[0], "value", None)
                assert isinstance(name, str), f"{file}: expected a constant as the event"
                yield name


def test_every_event_is_in_the_documentation_and_no_other_is() -> None:
    """Issue 5: structured logs; style guide, "Logging": the message is a constant event name."""
    pages = [(PROJECT / "docs" / name).read_text() for name in ("running.md", "serving.md")]
    rows = [line.split("|")[1] for page in pages for line in page.splitlines() if line.startswith("| `")]
    explained = {name for row in rows for name in re.findall(r"`([a-z]+\.[a-z_0-9]+)`", row)}
    mentioned = {name for page in pages for name in re.findall(r"`([a-z]+\.[a-z_0-9]+)`", page)}
    logged = set(events())
    assert logged - mentioned == set()
    # By `logger.log`, whose level depends on how it ended.
    assert explained - logged == {"child.exited", "cgroup.unusable"}
