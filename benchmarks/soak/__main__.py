"""Mixed load on one `stdio-broker serve` for half an hour: every answer right, and nothing grows.

    python -m benchmarks.soak [--minutes 30] [--seed N]
    python -m benchmarks.soak --cycles 10000

Sessions of both eras over servers of both, small calls and large ones, streams with progress, streams that
are dropped, churn, children that fall asleep, are woken, crash and are killed, clients that leave in the
middle of something, wrong requests, keys that are revoked under use, and a configuration that is reloaded:
`load` and `trouble` say what exactly. First comes a warm-up, a tenth of the time or a minute. Then
all load ends: the state at rest then, and the one after the load, must be the same: descriptors, threads,
processes, memory. The choices are made by the seed; when they come depends on the machine.

With `--cycles`: sessions that are opened, called once and deleted, against `stdio-broker run`; the state
after the first 1,000 is compared with the state at the end (`cycles`).

The exit code is 0 if all is right. `.cache/bench/soak.json` has the figures, and the series for plots.
"""

import argparse
import asyncio
import functools
import itertools
import os
import random
import signal
import sys
import tempfile
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import uvloop

from benchmarks.programs import end_tagged
from benchmarks.soak import cycles
from benchmarks.soak.broker import Broker, BrokerEnded, Reading, read_processes, serving
from benchmarks.soak.load import Actor, Ledger, Role, churn, listen, repeat, sleep, stream, talk
from benchmarks.soak.trouble import change, hurt, leave, misspell, revoke
from benchmarks.soak.verdict import Sample, Verdict, save, table
from benchmarks.tools import ROOT, prepare

_CACHE = ROOT / ".cache" / "bench"
_SAMPLE_INTERVAL = 10.0
_LEAST_SAMPLES = 18
_REST_TIMEOUT = 180.0
_REST_INTERVAL = 1.0
# As many equal looks in a row are the state at rest. Memory is not among what must be equal.
_REST_LOOKS = 5
_WARM_UP_MIN = 60.0
_MINUTES_MAX = 24 * 60
_ERAS = ("legacy", "modern")
_FRAGILE = ("fragile", "fragile-modern")
_PEACEFUL = ("anna", "ben", "carla", "dora")


def main() -> int:
    """Run what was asked for; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", default="", help="only the habits whose names begin so, to find a failure")
    parser.add_argument("--cycles", type=int, help="this many sessions one after the other, and nothing else")
    options = parser.parse_args()
    tools = prepare()
    print(*tools.notes, sep="\n", flush=True)
    tag = f"soak-tag-{os.getpid()}-"
    # So that a SIGTERM ends what was started, as Ctrl-C does.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        if options.cycles:
            return cycles.run(tools, tag, options.cycles)
        minutes = min(options.minutes, _MINUTES_MAX)
        problems = _tell(
            uvloop.run(soak(tools.child, tag, minutes * 60, options.seed, options.only)), options.seed
        )
    except* BrokerEnded as group:
        problems = [str(one) for one in group.exceptions]
    finally:
        end_tagged(tag)
    print("\npassed" if not problems else "\nFAILED", *problems, sep="\n")
    return 1 if problems else 0


def _tell(verdict: Verdict, seed: int) -> list[str]:
    """Print and save what was found; what is wrong."""
    print(table(verdict))
    save(verdict, _CACHE / "soak.json", {"seed": seed})
    return verdict.problems()


async def soak(child: tuple[str, ...], tag: str, seconds: float, seed: int, only: str = "") -> Verdict:
    """Warm up, rest, load, rest, stop.

    Args:
        child: How the child is started; an era and the tag follow.
        tag: Stands in the command line of every child.
        seconds: How long the load lasts, after the warm-up.
        seed: What the choices of all actors come from.
        only: How the names of the habits begin that are played.
    """
    with tempfile.TemporaryDirectory() as folder:
        async with serving(Path(folder), child, tag) as broker:
            parts = {n: part for n, part in enumerate(_parts()) if part.habit.startswith(only)}
            keys = {name: await broker.create_key(name) for name in {*_PEACEFUL, *_users(parts)}}
            play = _Play(broker, Ledger(), keys, parts)
            warm_up = max(seconds / 10, min(seconds, _WARM_UP_MIN))
            _say(f"warming up for {warm_up:.0f} s")
            await _load(play, warm_up, f"{seed}/warm-up")
            _say("waiting for rest")
            before = await _at_rest(broker)
            _say(f"at rest: {before}; load for {seconds:.0f} s")
            samples = await _load(play, seconds, str(seed))
            _say("waiting for rest")
            after = await _at_rest(broker)
            _say(f"at rest: {after}")
            exit_code, stop_seconds = await broker.stop()
        return Verdict(
            samples=samples,
            rest_before=before,
            rest_after=after,
            ledger=play.ledger,
            broker=broker,
            exit_code=exit_code,
            stop_seconds=stop_seconds,
            left=len(read_processes(tag)),
        )


@dataclass(frozen=True, slots=True)
class _Part:
    """Who does what: a user, and a habit with its name. Who makes trouble is alone."""

    principal: str
    habit: str
    role: Role


def _parts() -> list[_Part]:
    peaceful: list[tuple[str, Role]] = [
        *(
            _in_a_cell(talk, server, era)
            for server in ("legacy", "both", "modern", "changing")
            for era in ("legacy", "legacy", "modern")
        ),
        *(_in_a_cell(stream, server, era) for server in _ERAS for era in _ERAS),
        *(_in_a_cell(listen, server, "legacy") for server in ("legacy", "both")),
        _in_a_cell(listen, "legacy", "modern"),
        *[("sleep", sleep)] * 8,
        *[("churn", functools.partial(churn, server="legacy"))] * 3,
    ]
    trouble: list[tuple[str, Role]] = [
        *(_in_a_cell(role, server, era) for role in (hurt, leave) for server in _FRAGILE for era in _ERAS),
        ("revoke", revoke),
        ("change", change),
    ]
    users = itertools.cycle(_PEACEFUL)
    return [
        *(_Part(user, habit, role) for user, (habit, role) in zip(users, peaceful, strict=False)),
        *(_Part(f"trouble-{number}", habit, role) for number, (habit, role) in enumerate(trouble)),
    ]


def _in_a_cell(role: Callable[..., Awaitable[None]], server: str, era: str) -> tuple[str, Role]:
    habit = f"{role.__name__}, {era} client of {server}"
    return habit, functools.partial(role, server=server, modern=era == "modern")


def _users(parts: Mapping[int, _Part]) -> set[str]:
    return {part.principal for part in parts.values()}


@dataclass(frozen=True, slots=True)
class _Play:
    """What both phases have in common.

    Args:
        keys: Of each user.
        parts: By their number, which stands in the seed of each.
    """

    broker: Broker
    ledger: Ledger
    keys: Mapping[str, str]
    parts: Mapping[int, _Part]


async def _load(play: _Play, seconds: float, seed: str) -> list[Sample]:
    """Let all actors play for a time; what was seen meanwhile."""
    stopping = asyncio.Event()

    def actor(number: int, principal: str, habit: str) -> Actor:
        return Actor(
            name=f"{principal}-{number}",
            habit=habit,
            principal=principal,
            random=random.Random(f"{seed}/{number}"),  # noqa: S311 - repeatable is the point
            broker=play.broker,
            ledger=play.ledger,
            key=play.keys[principal],
            stopping=stopping,
        )

    stranger, other = (actor(-number, _PEACEFUL[number], "misspell") for number in (1, 2))
    async with asyncio.TaskGroup() as group:
        for number, part in play.parts.items():
            group.create_task(repeat(actor(number, part.principal, part.habit), part.role))
        group.create_task(repeat(stranger, functools.partial(misspell, other=other)))
        samples = await _sample(play.broker, play.ledger, seconds)
        stopping.set()
    return samples


async def _sample(broker: Broker, ledger: Ledger, seconds: float) -> list[Sample]:
    clock = asyncio.get_running_loop().time
    began = last = clock()
    interval = min(_SAMPLE_INTERVAL, seconds / _LEAST_SAMPLES)
    samples: list[Sample] = []
    answers = ledger.right.total()
    ledger.seconds.clear()
    while last - began < seconds:
        await asyncio.sleep(interval)
        now, total, times = clock(), ledger.right.total(), sorted(ledger.seconds) or [0.0]
        ledger.seconds.clear()
        samples.append(
            Sample(
                minutes=(now - began) / 60,
                reading=broker.look(),
                sessions=ledger.sessions,
                rps=(total - answers) / (now - last),
                p50_ms=times[len(times) // 2] * 1000,
                p99_ms=times[len(times) * 99 // 100] * 1000,
            )
        )
        last, answers = now, total
    return samples


async def _at_rest(broker: Broker) -> Reading:
    """Wait until no child is left and nothing changes any more, or for three minutes; the state then."""
    looks: list[tuple[int, int, int]] = []
    with suppress(TimeoutError):
        async with asyncio.timeout(_REST_TIMEOUT):
            while (
                len(looks) < _REST_LOOKS or len(set(looks[-_REST_LOOKS:])) > 1 or read_processes(broker.tag)
            ):
                await asyncio.sleep(_REST_INTERVAL)
                reading = broker.look()
                looks.append((reading.fds, reading.threads, reading.children))
    return broker.look()


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
