"""Starts the broker of any tree with the sampler in it, loads it, and counts what was sampled meanwhile."""

import hashlib
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from benchmarks.load import Load
from benchmarks.profile.layers import Recorded, Tally
from benchmarks.programs import on_cpu, started
from benchmarks.subjects import Subject
from benchmarks.tools import ROOT, Tools

__all__ = ["CELLS", "LAUNCH", "Tree", "broker", "built_sampler", "sample"]

LAUNCH = Path(__file__).resolve().parent / "launch.py"

# The eras of client and child.
CELLS = {
    f"{client} to {server}": (client, server)
    for client, server in (
        ("legacy", "legacy"),
        ("modern", "legacy"),
        ("modern", "modern"),
        ("legacy", "modern"),
    )
}

_SOURCE = LAUNCH.with_name("sampler.c")
_CACHE = ROOT / ".cache" / "bench"
_COMPILE_TIMEOUT = 60.0
# Often enough for a tenth of a microsecond in a few seconds, and seldom enough to cost 2 %.
_HERTZ = 5000
_TAIL = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Tree:
    """A checkout of this repository."""

    name: str
    path: Path

    def environment(self) -> dict[str, str]:
        """Return what makes Python take the broker from here, and the same path each time."""
        return {"PYTHONPATH": str(self.path / "src"), "PYTHONHASHSEED": "0"}

    def commit(self) -> str:
        """Return what it is at, with a plus sign if it was changed since; empty if git cannot tell."""
        head = self._git("rev-parse", "--short", "HEAD")
        return f"{head}+" if head and self._git("status", "--porcelain", "--", "src") else head

    def _git(self, *words: str) -> str:
        if not shutil.which("git"):
            return ""
        argv = ["git", "-C", str(self.path), *words]
        return subprocess.run(argv, check=False, capture_output=True, text=True).stdout.strip()


def broker(tools: Tools, how: Sequence[str], server: str, tag: str) -> tuple[str, ...]:
    """Return what starts the broker through launch.py, with a child that speaks one era."""
    python = (sys.executable, "-P", str(LAUNCH), *how)
    return (*python, "run", "--port", "0", "--log-level", "warning", "--", *tools.child, server, tag)


def built_sampler() -> Path:
    """Compile the sampler, once for each version of it and of Python.

    Raises:
        RuntimeError: It cannot be had here; the message says why.
    """
    compiler, include = shutil.which("cc"), sysconfig.get_path("include")
    if sys.platform != "linux" or compiler is None:
        raise RuntimeError("the sampler needs Linux and a C compiler")
    if not Path(include, "internal", "pycore_frame.h").exists():
        raise RuntimeError(f"the sampler needs Python's headers, and they are not in {include}")
    flags = ("-O2", "-std=gnu11", "-shared", "-fPIC", f"-I{include}", f"-I{include}/internal")
    digest = hashlib.sha256(_SOURCE.read_bytes() + " ".join((*flags, sys.version)).encode())
    library = _CACHE / f"sampler-{digest.hexdigest()[:16]}.so"
    if not library.exists():
        _CACHE.mkdir(parents=True, exist_ok=True)
        # Renamed when it is whole: another run may be compiling the same.
        unfinished = library.with_suffix(f".{os.getpid()}")
        command = [compiler, *flags, str(_SOURCE), "-o", str(unfinished)]
        done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=_COMPILE_TIMEOUT)
        if done.returncode:
            raise RuntimeError(f"the sampler could not be compiled: {done.stderr[:500]}")
        unfinished.rename(library)
    return library


def sample(
    tools: Tools, tree: Tree, cell: str, tallies: Mapping[int, Tally], *, seconds: float, tag: str
) -> bool:
    """Run a broker under each load; count what was sampled. Return whether the clock was fine.

    Args:
        tools: The programs beside it.
        tree: Whose broker.
        cell: One of `CELLS`.
        tallies: What to add to, by the number of connections.
        seconds: Measured time of each load.
        tag: Stands in the command line of every child.

    Raises:
        RuntimeError: It did not serve, or an answer was not right.
    """
    client, server = CELLS[cell]
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        result = Path(folder, "samples.json")
        argv = broker(tools, (str(result), str(built_sampler()), str(_HERTZ)), server, tag)
        subject = Subject(name=cell, argv=argv, kind="broker", child="per session", era=client)
        windows = {}
        with started(argv, environment=tree.environment()) as program:
            load = Load(tools=tools, subject=subject, program=program, seconds=seconds)
            for connections, tally in tallies.items():
                windows[connections] = _loaded(load, connections, tally)
        recorded = msgspec.json.decode(result.read_bytes(), type=Recorded)
    _check(recorded, tree)
    for connections, (begin, end) in windows.items():
        tallies[connections].add(recorded, begin, end)
    return recorded.fine


def _loaded(load: Load, connections: int, tally: Tally) -> tuple[int, int]:
    """Load the broker; return from when to when it was under full load."""
    # One call at a time, all on one CPU: to wake another one costs more than the call.
    cpu = 0 if connections == 1 else None
    begin = time.monotonic() + load.seconds / 4  # as long as the generator warms up
    with on_cpu(load.program.pid, cpu):
        outcome = load.calls(connections=connections, cpu=cpu)
    end = time.monotonic() - _TAIL
    if outcome.errors or outcome.wrong or outcome.cpu_us is None:
        raise RuntimeError(f"{outcome.errors} errors, {outcome.wrong} wrong answers: {outcome.first_error}")
    tally.add_calls(outcome.calls, outcome.cpu_us)
    return int(begin * 1e9), int(end * 1e9)


def _check(recorded: Recorded, tree: Tree) -> None:
    source = str(tree.path / "src" / "stdio_broker")
    if not any(file.startswith(source) for file, _, _ in recorded.frames):
        raise RuntimeError(f"expected the broker of {source}, and another one has run")
    if recorded.lost:
        raise RuntimeError(f"{recorded.lost} samples found no room: measure for a shorter time")
