"""How the tests of the supervisor start the program with many ways to behave."""

import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

from stdio_broker.supervisor import Child, Config, start
from tests.support.processes import find_tagged, wait_until

__all__ = [
    "NO_SIGNALS",
    "SIGNAL_MASKS",
    "command",
    "gone",
    "ignored_signals",
    "leased",
    "new_tag",
    "ready_line",
    "start_ready",
    "state_of",
]

# -I -S: a third of the start-up time.
_PROGRAM = (sys.executable, "-I", "-S", str(Path(__file__).parents[1] / "children" / "child_program.py"))


def command(mode: str, *arguments: object) -> list[str]:
    """Return the command of the program in one of its modes."""
    return [*_PROGRAM, mode, *map(str, arguments)]


async def start_ready(config: Config) -> Child:
    """Start a child and wait until it is ready."""
    child = await start(config)
    await ready_line(child)
    return child


async def ready_line(child: Child) -> bytes:
    """Return what the child says behind `ready`."""
    line = await child.stdout.receive()
    assert line.startswith(b"ready"), line
    return line.removeprefix(b"ready").strip()


def state_of(pid: int | None) -> str:
    """Return the state of a process as the kernel names it: R, S, T (stopped), Z…; empty if it is gone."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return ""
    return stat.rpartition(b")")[2].split()[0].decode()


#: Prints the masks of its blocked and ignored signals. Not our program: a Python ignores some itself.
SIGNAL_MASKS = ("grep", "-E", "^Sig(Blk|Ign)", "/proc/self/status")
NO_SIGNALS = ("SigBlk:\t0000000000000000", "SigIgn:\t0000000000000000")


def new_tag() -> str:
    """Return an argument by which the descendants of one child can be found."""
    return f"tag-{uuid4().hex}"


async def gone(tag: str) -> None:
    """Wait until no process with the tag is left: who is killed needs a moment to vanish."""
    await wait_until(lambda: not find_tagged(tag), what=f"end of everything tagged {tag}")


def ignored_signals(line: str) -> list[int]:
    """Return the signals of a `SigIgn:` line that a program can ignore.

    glibc keeps two for itself; a process that was started by posix_spawn (make does that) ignores one
    of them, and nobody can change that.
    """
    mask = int(line.split()[1], 16)
    return [number for number in signal.valid_signals() if mask >> (number - 1) & 1]


@contextmanager
def leased(program: Path, seconds: float) -> Iterator[Callable[[], object]]:
    """Let the exec of a program hang for so long; yield a function that waits until somebody is at it.

    Once only, and only for a program of our own that nobody has open for writing.
    """
    with subprocess.Popen(command("hold-lease", program, seconds), stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        try:
            assert holder.stdout.readline() == b"ready\n"
            yield holder.stdout.readline
        finally:
            holder.kill()
