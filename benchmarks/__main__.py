"""Runs the benchmark, keeps what it found, and writes it down."""

import argparse
import os
import shlex
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import FrameType

from benchmarks import results, supervisor
from benchmarks.catalogue import SCENARIOS
from benchmarks.pipes import PIPES
from benchmarks.programs import TAG, end_tagged
from benchmarks.render import DOCUMENT, printed, write_document
from benchmarks.results import RESULTS, About, Results
from benchmarks.rounds import PIPES_SCENARIOS, Plan, measure
from benchmarks.scenarios import Figures
from benchmarks.subjects import installed, subjects
from benchmarks.supervisor import SUPERVISOR
from benchmarks.tools import prepare

_INTERRUPTED = 130  # what a shell reports for SIGINT
_NAMES = (*(scenario.name for scenario in SCENARIOS), SUPERVISOR.name)
# Where figures go that are not those of a whole run, and so not documented.
_PART = RESULTS.with_name("part.json")
_OF_PIPES = About(
    name=PIPES,
    kind="limit",
    era="–",
    child="its own",
    scenarios=sorted(PIPES_SCENARIOS),
    notes=("the child called from Python without HTTP or an event loop",),
)


def main() -> int:
    """Measure, print and store; return the exit status."""
    options = _parse()
    # Both, even where the shell that started us ignores Ctrl-C for background jobs.
    signal.signal(signal.SIGINT, _interrupt)
    signal.signal(signal.SIGTERM, _interrupt)
    tag = f"{TAG}{os.getpid()}"
    try:
        found = _measure(options, tag)
    except RuntimeError as exc:
        print(exc, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return _INTERRUPTED
    finally:
        end_tagged(tag)
    path = RESULTS if found.whole else _PART
    found.write(path)
    print(printed(found))
    if options.document and found.whole:
        write_document(found, options.document)
    elif options.document:
        print(f"not documented, as it is not everything: {path.name} has it", file=sys.stderr)
    return 0


def _measure(options: argparse.Namespace, tag: str) -> Results:
    tools = prepare()
    scenarios = [s for s in SCENARIOS if s.name in options.scenario]
    names = {s.name for s in scenarios}
    chosen = [s for s in subjects(tools, tag) if not options.subject or s.name in options.subject]
    chosen = [
        s
        for s in chosen
        if any(one.means_something_for(s) for one in scenarios) and (options.peers or s.kind != "peer")
    ]
    kept, notes = installed(chosen)
    print(*tools.notes, *notes, sep="\n", file=sys.stderr)
    of_subjects = {f"{subject.name}: {note}" for subject in kept for note in subject.notes}
    # What it was started with, before the load is our own.
    machine = results.machine()
    plan = Plan(
        tools=tools,
        tag=tag,
        subjects=kept,
        scenarios=scenarios,
        rounds=options.rounds,
        seconds=options.seconds,
        pipes=PIPES in (options.subject or (PIPES,)) and bool(PIPES_SCENARIOS & names),
    )
    return Results(
        date=results.now(),
        command=_command(options),
        rounds=options.rounds,
        seconds=options.seconds,
        whole=options.whole,
        machine=machine,
        versions=results.versions(),
        # What is to know about a subject stands beside it.
        notes=[note for note in (*tools.notes, *notes) if note not in of_subjects],
        subjects=[*(results.about(subject) for subject in kept), *([_OF_PIPES] if plan.pipes else [])],
        measured=measure(plan),
        starts=_starts(options),
    )


def _starts(options: argparse.Namespace) -> Mapping[str, Sequence[Figures]]:
    wanted = SUPERVISOR.name in options.scenario and not options.subject
    return supervisor.measure(options.rounds) if wanted else {}


def _command(options: argparse.Namespace) -> str:
    """Return what to type for the same again; where it is written to is nobody else's business."""
    words = [word for word in sys.argv[1:] if word not in {"--document", str(options.document)}]
    return f"make bench BENCH={shlex.quote(shlex.join(words))}" if words else "make bench"


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="2 rounds of 1 s instead of 5 rounds of 1.5 s")
    parser.add_argument("--rounds", type=int, choices=range(1, 21), metavar="1..20")
    parser.add_argument("--seconds", type=float, help="measured time of each run, at most 60")
    parser.add_argument(
        "--scenario", action="append", choices=_NAMES, help="only this one, and others named so"
    )
    parser.add_argument(
        "--subject", action="append", help="only this one, by its name in the tables, and others"
    )
    parser.add_argument(
        "--peers", action=argparse.BooleanOptionalAction, default=True, help="install and measure"
    )
    parser.add_argument("--document", type=Path, nargs="?", const=DOCUMENT, help="write it, and its plots")
    options = parser.parse_args()
    options.whole = options.peers and not (options.scenario or options.subject)
    options.scenario = options.scenario or _NAMES
    options.rounds = options.rounds or (2 if options.quick else 5)
    options.seconds = min(60.0, options.seconds or (1.0 if options.quick else 1.5))
    return options


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
