"""Write the life of a child into `docs/supervisor.md`: run `python -m tests.supervisor.lifecycle_docs`."""

from dataclasses import fields
from pathlib import Path

from stdio_broker.supervisor.config import Config
from stdio_broker.supervisor.lifecycle import TRANSITIONS, Grace, State

__all__ = ["DOCUMENT", "drawn", "updated"]

DOCUMENT = Path(__file__).parents[2] / "docs" / "supervisor.md"

BEGIN = "<!-- Made from lifecycle.py by `python -m tests.supervisor.lifecycle_docs`. -->\n"
END = "<!-- End of what is made. -->\n"

_DEFAULTS = {field.name: field.default for field in fields(Config)}


def drawn() -> str:
    """Return the diagram and the steps, as Markdown."""
    edges = [
        f"    {before.name} --> {after.name} : {reason}\n"
        for before, step in TRANSITIONS.items()
        for after, reason in step.next.items()
        # Nearly every state can be abandoned: a row of the table says it better than nine arrows.
        if after is not State.ABANDONED
    ]
    ways = ["    [*] --> RUNNING : start\n", *edges, "    DONE --> [*]\n"]
    rows = [
        f"| {state.name} | {step.what} | {_bound(state, step.grace)} |\n"
        for state, step in TRANSITIONS.items()
    ]
    return (
        f"```mermaid\nstateDiagram-v2\n{''.join(ways)}```\n\n"
        f"| state | what happens | at most |\n|---|---|---|\n{''.join(rows)}"
    )


def updated(document: str) -> str:
    """Return the document with what stands between the markers written anew.

    Raises:
        ValueError: A marker is missing.
    """
    before, begin, rest = document.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"expected the markers {BEGIN!r} and {END!r}")
    return f"{before}{BEGIN}\n{drawn()}\n{END}{after}"


def _bound(state: State, grace: Grace | None) -> str:
    if grace is None:
        return ""
    if state is State.REAP:
        return f"`{grace}` again"
    return f"`{grace}` ({_DEFAULTS[grace]:g} s)"


if __name__ == "__main__":
    DOCUMENT.write_text(updated(DOCUMENT.read_text("utf-8")), "utf-8")
