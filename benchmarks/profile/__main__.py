"""Where each microsecond of a small call goes in the broker, by layer: `python -m benchmarks.profile`.

The broker runs with a sampler in its own process (sampler.c), under the load of the benchmark; each
sample belongs to a layer (layers.py); valgrind counts the instructions. Another tree is measured
beside this one, in the same run and alternating, with `--against`:

    python -m benchmarks.profile --name after --against before=/path/to/checkout
    python -m benchmarks.profile --compare before after --markdown

Not py-spy: it looks from outside by the wall clock, so a call that wakes another process seems to take what
that one takes; and it either reads frames that move meanwhile, or stops the process for longer than a call.
"""

import argparse
import contextlib
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

from benchmarks.profile import instructions, tables
from benchmarks.profile.broker import CELLS, Tree, built_sampler, sample
from benchmarks.profile.layers import Tally
from benchmarks.profile.result import Counted, Profile
from benchmarks.programs import TAG, end_tagged
from benchmarks.results import machine, now
from benchmarks.tables import Table
from benchmarks.tools import ROOT, Tools, prepare

_INTERRUPTED = 130  # what a shell reports for SIGINT


@dataclass(slots=True, kw_only=True)
class _Measured:
    """What one tree has given so far."""

    tree: Tree
    tallies: dict[str, dict[int, Tally]]
    counted: list[Counted] = field(default_factory=list)
    fine: bool = True
    failures: list[str] = field(default_factory=list)

    @contextlib.contextmanager
    def cell(self, cell: str) -> Iterator[None]:
        """Leave a cell out from here on if it fails: the others may be right."""
        try:
            yield
        except RuntimeError as exc:
            self.tallies.pop(cell, None)
            self.counted = [one for one in self.counted if one.cell != cell]
            self.failures.append(f"{self.tree.name}, {cell} fails: {exc}")
            print(self.failures[-1], file=sys.stderr)

    def profile(self) -> Profile:
        sampled = [
            tally.sampled(cell, connections)
            for cell, loads in self.tallies.items()
            for connections, tally in loads.items()
            if tally.samples
        ]
        return Profile(
            name=self.tree.name,
            date=now(),
            commit=self.tree.commit(),
            machine=machine(),
            fine=self.fine,
            sampled=sampled,
            counted=self.counted,
        )


def main() -> int:
    """Measure and print, or only print; return the exit status."""
    options = _parse()
    failed = False
    try:
        if options.compare:
            profiles = [Profile.read(name) for name in options.compare]
        else:
            signal.signal(signal.SIGINT, _interrupt)
            signal.signal(signal.SIGTERM, _interrupt)
            measured = _measure(options)
            failed = any(one.failures for one in measured)
            profiles = [one.profile() for one in measured]
            for profile in profiles:
                print(f"written to {profile.write().relative_to(ROOT)}", file=sys.stderr)
    except (RuntimeError, FileNotFoundError) as exc:
        print(exc, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return _INTERRUPTED
    _print(profiles, markdown=options.markdown)
    return 1 if failed else 0


def _measure(options: argparse.Namespace) -> list[_Measured]:
    """Measure all trees, the others first: they are what came before."""
    trees = [_tree(*words) for words in (*options.against, (options.name, options.tree))]
    cells = options.cell or list(CELLS)
    measured = [
        _Measured(tree=t, tallies={c: {n: Tally() for n in options.connections} for c in cells})
        for t in trees
    ]
    tools, tag = prepare(), f"{TAG}{os.getpid()}"
    try:
        _sample(tools, measured, options.rounds, options.seconds, tag)
        if options.calls:
            _count(tools, measured, options.calls, tag)
    finally:
        end_tagged(tag)
    return measured


def _sample(tools: Tools, measured: Sequence[_Measured], rounds: int, seconds: float, tag: str) -> None:
    if not rounds:
        return
    built_sampler()  # now, so that what is missing is said at once
    for number in range(rounds):
        # There and back, so that a slow drift of the machine touches all of them alike.
        for one in measured if number % 2 == 0 else measured[::-1]:
            for cell, tallies in list(one.tallies.items()):
                print(f"round {number + 1} of {rounds}: {one.tree.name}, {cell}", file=sys.stderr)
                with one.cell(cell):
                    one.fine &= sample(tools, one.tree, cell, tallies, seconds=seconds, tag=tag)


def _count(tools: Tools, measured: Sequence[_Measured], calls: int, tag: str) -> None:
    missing = instructions.missing()
    if missing:
        print(missing, file=sys.stderr)
        return
    for one in measured:
        for cell in list(one.tallies):
            print(f"instructions: {one.tree.name}, {cell}", file=sys.stderr)
            with one.cell(cell):
                one.counted.append(instructions.count(tools, one.tree, cell, calls=calls, tag=tag))


def _print(profiles: Sequence[Profile], *, markdown: bool) -> None:
    parts = [tables.about(profile) for profile in profiles]
    if len(profiles) == 1 or not markdown:
        for profile in profiles:
            parts += [_written(table, markdown=markdown) for table in tables.of_one(profile)]
    parts += [
        _written(table, markdown=markdown)
        for after in profiles[1:]
        for table in tables.of_two(profiles[0], after)
    ]
    print("\n\n".join(parts))


def _written(table: Table, *, markdown: bool) -> str:
    return table.markdown() if markdown else table.plain()


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.profile",
        description=__doc__,
        formatter_class=argparse.RawTextHelpFormatter,
    )
    parser.add_argument("--name", default="now", help="under which the profile is kept")
    parser.add_argument("--tree", default=str(ROOT), help="the checkout to measure; this one")
    parser.add_argument(
        "--against",
        action="append",
        default=[],
        type=_named,
        metavar="NAME=PATH",
        help="another checkout, measured in the same run, alternating",
    )
    parser.add_argument("--cell", action="append", choices=list(CELLS), help="only this one; can be repeated")
    parser.add_argument(
        "--connections", type=int, nargs="+", default=[32, 1], choices=range(1, 1025), metavar="N"
    )
    parser.add_argument(
        "--rounds", type=int, default=3, choices=range(21), metavar="0..20", help="0: no samples"
    )
    parser.add_argument("--seconds", type=float, default=3.0, help="measured time of each run, at most 10")
    parser.add_argument(
        "--calls",
        type=int,
        default=instructions.CALLS,
        help="over which instructions are counted; 0: they are not",
    )
    parser.add_argument("--compare", nargs=2, metavar=("BEFORE", "AFTER"), help="print two kept profiles")
    parser.add_argument("--markdown", action="store_true", help="tables for a document")
    options = parser.parse_args()
    options.seconds = min(10.0, options.seconds)
    if not options.rounds and not options.calls and not options.compare:
        parser.error("expected rounds or calls, found neither")
    return options


def _named(text: str) -> tuple[str, str]:
    name, equals, path = text.partition("=")
    if not name or not equals:
        raise argparse.ArgumentTypeError(f"expected NAME=PATH, found {text!r}")
    return name, path


def _tree(name: str, path: str) -> Tree:
    tree = Tree(name=name, path=Path(path).resolve())
    if not (tree.path / "src" / "stdio_broker").is_dir():
        raise RuntimeError(f"expected a checkout with src/stdio_broker, found none in {path}")
    return tree


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
