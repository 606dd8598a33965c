"""Counts the instructions of a call in user mode, with valgrind's callgrind.

One call after the other on one connection, first N of them, then 2 N; the difference is what N calls take,
without the session that each run opens and closes. Time passes fifty times slower there, so what the broker
does by the clock weighs fifty times as much as it should; that is little. The kernel's work is not counted.
"""

import contextlib
import json
import os
import shutil
import subprocess
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path

from benchmarks.profile.broker import CELLS, Tree, broker
from benchmarks.profile.result import Counted
from benchmarks.programs import read_line
from benchmarks.tools import ROOT, Tools

__all__ = ["CALLS", "count", "missing", "own_costs"]

CALLS = 300
"""N: enough for a fraction of a percent."""

# The first calls fill caches, and let the interpreter specialise its code.
_FIRST_CALLS = 100
_READY_TIMEOUT = 300.0
_RUN_TIMEOUT = 120.0
_STOP_TIMEOUT = 120.0
_TAIL_BYTES = 2000


def missing() -> str | None:
    """Say what is missing to count instructions here; None: nothing."""
    absent = [name for name in ("valgrind", "vgdb") if not shutil.which(name)]
    return f"instructions are not counted: {' and '.join(absent)} not found" if absent else None


def count(tools: Tools, tree: Tree, cell: str, *, calls: int, tag: str) -> Counted:
    """Count the instructions of a call.

    Args:
        tools: The programs beside it.
        tree: Whose broker.
        cell: One of `CELLS`.
        calls: N.
        tag: Stands in the command line of every child.

    Raises:
        RuntimeError: The broker did not serve, or an answer was not right.
    """
    client, server = CELLS[cell]
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        out = Path(folder, "callgrind")
        valgrind = (
            "valgrind",
            "--tool=callgrind",
            f"--callgrind-out-file={out}",
            f"--vgdb-prefix={folder}/vgdb",
        )
        with _started((*valgrind, *broker(tools, ("counted",), server, tag)), tree, Path(folder)) as (
            pid,
            url,
        ):
            costs = []
            for number, amount in enumerate((_FIRST_CALLS, calls, 2 * calls), start=1):
                _load(tools, client, url, amount)
                _dump(pid, folder)
                costs.append(own_costs(Path(f"{out}.{number}").read_text(errors="replace").splitlines()))
    few, many = costs[1:]
    objects = {name: (many[name] - few[name]) / calls for name in many}
    return Counted(cell=cell, calls=calls, per_call=sum(objects.values()), objects=_named(objects))


@contextlib.contextmanager
def _started(argv: tuple[str, ...], tree: Tree, folder: Path) -> Iterator[tuple[int, str]]:
    """Start the broker under valgrind; it takes its time."""
    with Path(folder, "stderr").open("w+b") as stderr:
        process = subprocess.Popen(
            argv,
            cwd=ROOT,
            env={**os.environ, **tree.environment()},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=stderr,
            start_new_session=True,
        )
        assert process.stdout
        try:
            words = read_line(process.stdout, _READY_TIMEOUT).split()
            url = next((word for word in words if word.startswith("http://")), None)
            if url is None:
                stderr.seek(max(0, stderr.seek(0, os.SEEK_END) - _TAIL_BYTES))
                raise RuntimeError(f"no URL under valgrind: {stderr.read().decode(errors='replace')}")
            yield process.pid, url
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(_STOP_TIMEOUT)
        finally:
            process.kill()
            process.wait()
            process.stdout.close()


def _load(tools: Tools, era: str, url: str, calls: int) -> None:
    argv = [*tools.load, "--mode", "calls", "--era", era, "--url", url, "--connections", "1"]
    argv += ["--count", str(calls), "--seconds", "100"]
    done = subprocess.run(argv, check=False, capture_output=True, timeout=_RUN_TIMEOUT)
    found = json.loads(done.stdout) if done.returncode == 0 else {}
    if found.get("calls") != calls or found.get("errors") or found.get("wrong"):
        said = (done.stdout + done.stderr).decode(errors="replace")[:_TAIL_BYTES]
        raise RuntimeError(f"expected {calls} right answers under valgrind: {said}")


def _dump(pid: int, folder: str) -> None:
    """Make callgrind write what it has counted, and begin anew."""
    argv = ["vgdb", f"--vgdb-prefix={folder}/vgdb", f"--pid={pid}", "dump"]
    subprocess.run(argv, check=True, capture_output=True, timeout=_RUN_TIMEOUT)


def own_costs(lines: Iterable[str]) -> Counter[str]:
    """Return what each object file has cost by itself.

    Source: valgrind's "Callgrind Format Specification".
    """
    costs: Counter[str] = Counter()
    names: dict[str, str] = {}
    name, of_call = "", False
    for line in lines:
        if line.startswith("ob="):
            number, _, path = line.removeprefix("ob=").partition(" ")
            name = names.setdefault(number, path)
        elif line.startswith("cob="):
            number, _, path = line.removeprefix("cob=").partition(" ")
            names.setdefault(number, path)
        elif line.startswith("calls="):
            of_call = True  # the line below is what the callee has cost
        elif line[:1] in _POSITIONS:
            if not of_call:
                costs[name] += int(line.split()[1])
            of_call = False
    return costs


_POSITIONS = frozenset("0123456789+-*")


def _named(objects: dict[str, float]) -> dict[str, float]:
    """Return the costs by the package, or the name, of the object file, most first."""
    costs: defaultdict[str, float] = defaultdict(float)
    for path, cost in objects.items():
        _, found, module = path.rpartition("/site-packages/")
        costs[module.partition("/")[0] if found else path.rpartition("/")[2] or "?"] += cost
    return dict(sorted(costs.items(), key=lambda item: -item[1]))
