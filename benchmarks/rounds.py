"""Runs the rounds: every subject in every round, each time in a fresh process.

Rounds alternate the order of the subjects (A B C, then C B A), so that a slow drift of the machine touches
all of them alike. A subject that fails ends neither the round nor its own other scenarios: it is started
anew for the next one.
"""

import functools
import math
import re
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

from benchmarks import pipes
from benchmarks.load import Load
from benchmarks.pipes import PIPES
from benchmarks.programs import end_tagged, started
from benchmarks.results import Round
from benchmarks.scenarios import Figures, Scenario, ScenarioFailedError
from benchmarks.subjects import Subject
from benchmarks.tools import Tools

__all__ = ["FAILURES", "PIPES_SCENARIOS", "Plan", "due", "measure", "merged"]

# What a subject can do to us: not start, hang, end, answer nonsense. Mistakes of our own end the run.
FAILURES = (ScenarioFailedError, RuntimeError, OSError, ValueError, subprocess.TimeoutExpired)

PIPES_SCENARIOS = frozenset({"one", "many"})
"""Those that the pipes alone have figures for."""

# Its figures in a round, from the number of the round and the rounds before.
_Turn: TypeAlias = Callable[[int, Sequence[Round]], Round]

# A peer that has failed so often, and never done it, is not asked again: it may take a minute each time.
_TRIES = 2
# There are many of them, and all are slow and far behind: less time tells as much of them as of us.
_PEER_SHARE = 0.5
_PEER_ROUNDS = 3
_SHOWN_CHARACTERS = 300
# The folders of a path: the last of its names says enough, and the others are this machine's.
_FOLDERS = re.compile(r"(?<![\w.:/-])/(?:[\w.@+-]+/)+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is to be measured.

    Args:
        tag: Stands in the command line of every child.
        seconds: Measured time of a run, before subject and scenario take their share.
        pipes: Measure the pipes alone too, which serve nobody and so are no subject.
    """

    tools: Tools
    tag: str
    subjects: Sequence[Subject]
    scenarios: Sequence[Scenario]
    rounds: int
    seconds: float
    pipes: bool = False


def measure(plan: Plan) -> dict[str, list[Round]]:
    """Measure every subject in every round; whatever fails is part of what is found."""
    near, apart = ([s for s in plan.scenarios if s.apart is wanted] for wanted in (False, True))
    first, second = (_pass(replace(plan, scenarios=scenarios)) for scenarios in (near, apart))
    return {name: [merged(*pair) for pair in zip(first[name], second[name], strict=True)] for name in first}


def merged(one: Round, other: Round) -> Round:
    """Join what was measured of a subject in two rounds; what one of them left behind counts."""
    left = [entry.figures["left"] or 0 for entry in (one, other) if "left" in entry.figures]
    figures = {**one.figures, **other.figures}
    return Round(
        figures={**figures, "left": sum(left)} if left else figures,
        asked=(*one.asked, *other.asked),
        failures={**one.failures, **other.failures},
    )


def _pass(plan: Plan) -> dict[str, list[Round]]:
    turns: dict[str, _Turn] = {s.name: functools.partial(_turn, plan, s) for s in plan.subjects}
    if plan.pipes:
        turns[PIPES] = functools.partial(_pipes, plan)
    found: dict[str, list[Round]] = {name: [] for name in turns}
    for number in range(plan.rounds):
        for name in turns if number % 2 == 0 else reversed(turns):
            found[name].append(turns[name](number, found[name]))
    return found


def _turn(plan: Plan, subject: Subject, number: int, before: Sequence[Round]) -> Round:
    scenarios = due(subject, plan.scenarios, number, before)
    if not scenarios:
        return Round(figures={})
    _say(plan, number, subject.name)
    return _visit(plan, subject, scenarios)


def _say(plan: Plan, number: int, name: str) -> None:
    print(f"round {number + 1} of {plan.rounds}: {name}", file=sys.stderr)


def _pipes(plan: Plan, number: int, _before: Sequence[Round]) -> Round:
    asked = [scenario.name for scenario in plan.scenarios if scenario.name in PIPES_SCENARIOS]
    if not asked:
        return Round(figures={})
    _say(plan, number, PIPES)
    try:
        figures = pipes.measure(plan.tools, plan.tag, plan.seconds)
    except FAILURES as exc:
        return Round(figures={}, asked=asked, failures=dict.fromkeys(asked, _clean(str(exc))))
    # It measures both at once; one of them may not be wanted.
    wanted = {key: value for key, value in figures.items() if key.partition("_")[0] in asked}
    return Round(figures=wanted, asked=asked)


def due(
    subject: Subject, scenarios: Iterable[Scenario], number: int, before: Sequence[Round]
) -> list[Scenario]:
    """Return what to ask a subject in a round, whose number counts from 0, after the rounds before."""

    def hopeless(scenario: Scenario) -> bool:
        failures = sum(scenario.name in entry.failures for entry in before)
        asked = sum(scenario.name in entry.asked for entry in before)
        return subject.kind == "peer" and failures >= _TRIES and failures == asked

    return [
        scenario
        for scenario in scenarios
        if scenario.means_something_for(subject)
        and number < _rounds(scenario, subject)
        and not hopeless(scenario)
    ]


def _rounds(scenario: Scenario, subject: Subject) -> float:
    others = None if subject.kind == "broker" else scenario.other_rounds
    most = _PEER_ROUNDS if subject.kind == "peer" else math.inf
    return min(most, *(found for found in (scenario.rounds, others) if found is not None), math.inf)


def _visit(plan: Plan, subject: Subject, scenarios: Sequence[Scenario]) -> Round:
    found: dict[str, Figures] = {}
    failures: dict[str, str] = {}
    left = _serving(plan, subject, [s for s in scenarios if s.run], found, failures)
    for scenario in scenarios:
        if scenario.run_alone:
            try:
                found[scenario.name] = scenario.run_alone(plan.tools, subject, plan.tag)
            except FAILURES as exc:
                failures[scenario.name] = _failure(subject, scenario, exc)
            end_tagged(plan.tag)
    figures = {key: value for name, of in found.items() if name not in failures for key, value in of.items()}
    # Of a subject that was ended in the middle of its work nothing is said but that.
    return Round(
        figures=figures if failures else {**figures, "left": float(left)},
        asked=[scenario.name for scenario in scenarios],
        failures=failures,
    )


def _serving(
    plan: Plan,
    subject: Subject,
    scenarios: Sequence[Scenario],
    found: dict[str, Figures],
    failures: dict[str, str],
) -> int:
    """Run what needs a subject that serves, and tell what its end left behind."""
    left = 0
    waiting = deque(scenarios)
    while waiting:
        scenario = waiting[0]
        try:
            with started(subject.argv, path=subject.path, environment=subject.environment) as program:
                while waiting:
                    scenario = waiting.popleft()
                    assert scenario.run
                    seconds = plan.seconds * _share(subject) * scenario.share
                    load = Load(tools=plan.tools, subject=subject, program=program, seconds=seconds)
                    found[scenario.name] = scenario.run(load)
                    failures.update({part: _clean(why) for part, why in load.failures.items()})
                    if load.failures:
                        # It may still be busy with what it did not do in time.
                        break
        except FAILURES as exc:
            failures[scenario.name] = _failure(subject, scenario, exc)
            # It may not even have started; then nothing has taken the scenario away.
            if waiting and waiting[0] is scenario:
                waiting.popleft()
        left += end_tagged(plan.tag)
    return left


def _share(subject: Subject) -> float:
    return subject.share * (_PEER_SHARE if subject.kind == "peer" else 1.0)


def _failure(subject: Subject, scenario: Scenario, error: BaseException) -> str:
    said = _clean(str(error)) or type(error).__name__
    print(f"  {subject.name} fails {scenario.name}: {said}", file=sys.stderr)
    return said


def _clean(text: str) -> str:
    """Write a failure in one line that can be published."""
    return _FOLDERS.sub("", " ".join(text.split()))[:_SHOWN_CHARACTERS]
