"""Sessions one after the other, thousands of them: what is left of each?

Against `stdio-broker run`, so that nothing else happens. The generator checks every answer.
"""

import json
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.programs import started
from benchmarks.soak.broker import Reading, read_process, read_processes
from benchmarks.soak.verdict import problems_at_rest
from benchmarks.tools import ROOT, Tools

__all__ = ["run"]

_CACHE = ROOT / ".cache" / "bench"
_AT_A_TIME = 1000
_CONNECTIONS = 4
_SECONDS_MAX = 120
_CHILDREN_TIMEOUT = 30.0
_LOOK_INTERVAL = 0.05


def run(tools: Tools, tag: str, cycles: int) -> int:
    """Run that many cycles, a thousand at a time; the exit code.

    Args:
        tools: The generator and the child.
        tag: Stands in the command line of every child.
        cycles: How many, at least 2,000; after the first 1,000 the state is taken that must be kept.
    """
    broker = (sys.executable, "-m", "stdio_broker", "run", "--port", "0", "--log-level", "warning", "--")
    readings: list[Reading] = []
    problems: list[str] = []
    with started((*broker, *tools.child, "legacy", tag)) as program:
        for done in range(0, max(cycles, 2 * _AT_A_TIME), _AT_A_TIME):
            problems += _cycles(tools, program.url, program.pid)
            _wait_for_children(tag)
            readings.append(read_process(program.pid))
            print(f"after {done + _AT_A_TIME:7,} cycles: {readings[-1]}", flush=True)
    problems += problems_at_rest(readings[0], readings[-1])
    problems += (
        [f"{len(left)} processes are left after the broker's end"] if (left := read_processes(tag)) else []
    )
    _save(readings, problems, _CACHE / "soak-cycles.json")
    print("\npassed" if not problems else "\nFAILED", *problems, sep="\n")
    return 1 if problems else 0


def _cycles(tools: Tools, url: str, pid: int) -> list[str]:
    """Let the generator run its share; what was wrong."""
    argv = [*tools.load, "--mode", "cycles", "--url", url, "--pid", str(pid), "--count", str(_AT_A_TIME)]
    argv += ["--connections", str(_CONNECTIONS), "--seconds", str(_SECONDS_MAX)]
    done = subprocess.run(argv, check=False, capture_output=True, timeout=2 * _SECONDS_MAX)
    if done.returncode:
        return [f"the generator failed: {done.stderr.decode(errors='replace')[-500:]}"]
    found = json.loads(done.stdout)
    problems = [f"{found['errors']} errors, {found['wrong']} wrong answers: {found['first_error']}"]
    return problems if found["errors"] or found["wrong"] or found["calls"] < _AT_A_TIME else []


def _wait_for_children(tag: str) -> None:
    """Wait until the last children are gone; those that stay show in what is read then."""
    deadline = time.monotonic() + _CHILDREN_TIMEOUT
    while read_processes(tag)[1:] and time.monotonic() < deadline:
        time.sleep(_LOOK_INTERVAL)


def _save(readings: list[Reading], problems: list[str], path: Path) -> None:
    """Write figures and series; `rss_growth` 0.05 is five percent, `…_before` is after the first thousand."""
    first, last = readings[0], readings[-1]
    figures = {
        "cycles": len(readings) * _AT_A_TIME,
        "rss_kb": last.rss_kb,
        "rss_growth": last.rss_kb / first.rss_kb - 1,
        "fds": last.fds,
        "fds_before": first.fds,
        "threads": last.threads,
        "threads_before": first.threads,
        "children": last.children,
        "children_before": first.children,
    }
    cycles = [(number + 1) * _AT_A_TIME for number in range(len(readings))]
    series = [
        {"name": name, "x": cycles, "y": values, "x_label": "cycles", "y_label": unit}
        for name, unit, values in (
            ("RSS", "MB", [one.rss_kb / 1024 for one in readings]),
            ("open files", "", [float(one.fds) for one in readings]),
        )
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"figures": figures, "series": series, "problems": problems}, indent=1) + "\n")
