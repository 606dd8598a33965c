"""Other processes that use the same database."""

import contextlib
import subprocess
import sys
from collections.abc import Iterator

__all__ = ["FINISH_TIMEOUT", "Program", "python"]

#: Seconds that a small program may take on a machine that does other things, too.
FINISH_TIMEOUT = 50.0

#: A program: it says that it is ready, and goes on when told.
_PREAMBLE = """
import asyncio, sys
from stdio_broker.auth.database import Database
from stdio_broker.auth.store import KeyStore
url = sys.stdin.readline().rstrip()
print("ready", flush=True)
sys.stdin.readline()
"""


class Program:
    """A program that waits to go on."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process

    def go(self) -> None:
        """Let it go on."""
        assert self._process.stdin is not None
        self._process.stdin.write("go\n")
        self._process.stdin.flush()

    def finish(self) -> str:
        """Wait until it has ended well; return what it has printed."""
        output, errors = self._process.communicate(timeout=FINISH_TIMEOUT)
        assert self._process.returncode == 0, errors[-2000:]
        return output


@contextlib.contextmanager
def python(body: str, url: str) -> Iterator[Program]:
    """Start a Python program, up to where it waits to go on; it finds a `store` on the database."""
    main = "".join(f"        {line}\n" for line in body.splitlines())
    code = (
        f"{_PREAMBLE}async def main():\n    async with Database(url) as database:\n"
        f"        store = KeyStore(database)\n{main}asyncio.run(main())\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write(f"{url}\n")  # not in its arguments, where others see it
            process.stdin.flush()
            assert process.stdout.readline() == "ready\n"
            yield Program(process)
        finally:
            process.kill()
