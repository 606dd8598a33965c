"""The documentation shows what is tested."""

from pathlib import Path

GUIDE = Path(__file__).parents[2] / "docs" / "supervisor.md"


def test_the_example_of_the_documentation_is_the_one_that_is_tested() -> None:
    example = Path(__file__).with_name("test_example.py").read_text().split("\n\n", 1)[1]
    assert f"```python\n{example}```\n" in GUIDE.read_text()
