"""The table of guarantees in the documentation names, for each, a test that exists."""

import re
from pathlib import Path

HERE = Path(__file__).parent
GUIDE = HERE.parents[1] / "docs" / "supervisor.md"

#: How many guarantees there are.
GUARANTEES = 31


def _rows() -> dict[int, str]:
    rows = re.findall(r"^\| (\d+) \|(.*)$", GUIDE.read_text(), re.MULTILINE)
    return {int(number): row for number, row in rows}


def test_every_guarantee_names_tests_that_exist() -> None:
    sources = "\n".join(path.read_text() for path in HERE.glob("test_*.py"))
    tests = set(re.findall(r"^(?:async )?def (test_\w+)", sources, re.MULTILINE))
    for number, row in _rows().items():
        named = re.findall(r"`(test_\w+)`", row)
        assert named, f"guarantee {number} is not proven"
        assert set(named) <= tests, f"guarantee {number} names a test that is not there"


def test_no_guarantee_is_left_out() -> None:
    assert sorted(_rows()) == list(range(1, GUARANTEES + 1))
