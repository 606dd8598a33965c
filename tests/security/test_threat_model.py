"""docs/security.md names the test behind each promise: all of them exist, and each promise has one."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCUMENT = ROOT / "docs" / "security.md"


def test_every_test_that_the_threat_model_names_exists() -> None:
    """Ours: a promise whose test was renamed away is a promise without one."""
    named = set(re.findall(r"`(test_\w+)`", DOCUMENT.read_text()))
    files = (ROOT / "tests").rglob("test_*.py")
    known = {name for file in files for name in re.findall(r"def (test_\w+)\(", file.read_text())}
    assert named
    assert named <= known, sorted(named - known)


def test_every_defence_has_a_test() -> None:
    """Ours: the last cell of each row."""
    table = DOCUMENT.read_text().partition("## What is defended")[2].partition("\n## ")[0]
    rows = [line.strip("|").split(" | ") for line in table.splitlines() if line.startswith("| ")]
    assert rows[0][-1].strip() == "attacked by"
    assert all(len(row) == len(rows[0]) and "`test_" in row[-1] for row in rows[1:])
