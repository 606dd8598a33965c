"""An MCP server for tests, of every revision, that can behave well and badly on demand.

Only the standard library, and of that little: `python -I -S` runs it in 30 ms.

    mcp_child.py [MODE…]

Modes, tools, methods and questions are modules of `scripted`, whose docstrings say what each of them does. A
word `NAME=VALUE` gives a mode its value. Methods that begin with `echo/`, in 2026-07-28 `tasks/` too, are
answered with their line.
"""

from __future__ import annotations

import contextlib
import os
import sys

# `-I` takes the directory of the program out of the path. A program given with `-c` has none: then we must be
# in that of the project. pathlib would cost 10 ms.
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)) + "/../.." if "__file__" in globals() else ".")  # noqa: PTH100, PTH120

from tests.children.scripted.child import Child
from tests.children.scripted.modes import MODES


def main() -> None:
    """Serve, as the words of the command line want it."""
    child = Child()
    for word in sys.argv[1:]:
        name, _, value = word.partition("=")
        MODES[name](child, value)
    with contextlib.suppress(BrokenPipeError, KeyboardInterrupt):
        child.run()


if __name__ == "__main__":
    main()
