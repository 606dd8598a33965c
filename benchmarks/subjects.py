"""What is measured: the broker, and what bounds it from above."""

import json
import sys
from dataclasses import dataclass

from benchmarks.tools import Tools

__all__ = ["BROKER", "CEILING", "CELLS", "CONSTANT", "Subject", "subjects"]

BROKER = "stdio-broker"
CONSTANT = "uvicorn, constant"
CEILING = "C, no child"
# The broker between a client and a server, by the eras of the two; `BROKER` is legacy to legacy.
CELLS = {
    "modern to legacy": ("modern", "legacy"),
    "legacy to modern": ("legacy", "modern"),
    "modern to modern": ("modern", "modern"),
}

_CALLS = frozenset({"one", "many"})

# As long as the child's answer to the echo that the generator sends.
_CONSTANT_ANSWER = json.dumps(
    {"jsonrpc": "2.0", "id": 1, "result": {"content": [{"type": "text", "text": "." * 32}]}},
    separators=(",", ":"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """One column of the comparison: a program that serves MCP, or pretends to.

    Args:
        argv: Starts it; it prints its URL on stdout when it is ready.
        scenarios: The names of those that mean something for it.
        era: What the generator speaks to it: `legacy` or `modern`.
        share: How much of the measured time its runs get.
        constant: The one answer it gives to everything; None: it speaks MCP.
    """

    name: str
    argv: tuple[str, ...]
    scenarios: frozenset[str] = _CALLS
    era: str = "legacy"
    share: float = 1.0
    constant: str | None = None


def subjects(tools: Tools, tag: str) -> tuple[Subject, ...]:
    """Return everything that can be measured here; the tag goes into the command line of every child."""
    broker = (sys.executable, "-m", "stdio_broker", "run", "--port", "0", "--log-level", "warning", "--")
    constant = (sys.executable, "-m", "benchmarks.constant", _CONSTANT_ANSWER)

    def between(server: str) -> tuple[str, ...]:
        # Which refuses the other era, so that no subject can turn out to be another one.
        return (*broker, *tools.child, server, tag)

    # In this order the broker runs next to all that it is compared with. Half the time for what is compared
    # with nothing else, as there is much of it.
    found = [
        Subject(name=name, argv=between(server), era=client, share=0.5)
        for name, (client, server) in CELLS.items()
    ]
    found.append(Subject(name=BROKER, argv=between("legacy"), scenarios=_CALLS | {"idle", "cycles"}))
    found.append(Subject(name=CONSTANT, argv=constant, constant=_CONSTANT_ANSWER))
    if tools.answer:
        found.append(Subject(name=CEILING, argv=tools.answer, scenarios=_CALLS | {"cycles"}))
    return tuple(found)
