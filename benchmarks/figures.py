"""The arithmetic of the benchmark: medians over rounds, ratios within rounds, who is the fastest. Pure."""

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from benchmarks.results import Results, Round

__all__ = ["Ratio", "best", "failed", "median", "ratio", "value"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ratio:
    """The median over the rounds of the ratio in each round, and how far the rounds lie apart."""

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{_digits(self.median)} ({_digits(self.low)} to {_digits(self.high)})"


def _digits(number: float) -> str:
    return f"{number:,.0f}" if number >= 100 else f"{number:.3g}" if number >= 1 else f"{number:.2f}"


def median(rounds: Iterable[Round], key: str) -> float | None:
    """Return the median of one figure over the rounds that have it."""
    values = [value for entry in rounds if (value := entry.figures.get(key)) is not None]
    return statistics.median(values) if values else None


def failed(rounds: Sequence[Round], scenario: str, key: str, *, strictly: bool) -> bool:
    """Say whether a subject fails a figure: in one round, if we are strict, else in half of the rounds.

    We are strict with ourselves alone: without a peer that has failed once, by chance, our ratio to the
    fastest peer would be too good.
    """
    tried = sum(scenario in entry.asked for entry in rounds)
    bad = sum(_fails(entry, scenario, key) for entry in rounds)
    return bad > 0 if strictly else bad * 2 >= max(1, tried)


def value(results: Results, name: str, scenario: str, key: str) -> float | None:
    """Return a subject's median figure; None: it has none, or fails."""
    rounds = results.measured.get(name, ())
    strictly = any(s.name == name and s.kind == "broker" for s in results.subjects)
    return None if failed(rounds, scenario, key, strictly=strictly) else median(rounds, key)


def best(
    results: Results,
    scenario: str,
    key: str,
    *,
    among: Callable[[str], bool] = lambda _: True,
    lowest: bool = False,
) -> str | None:
    """Return the peer with the best figure, of those whose names count; None: no peer can do it."""
    peers = [s.name for s in results.subjects if s.kind == "peer" and among(s.name)]
    found = {name: number for name in peers if (number := value(results, name, scenario, key)) is not None}
    if not found:
        return None
    return (min if lowest else max)(found, key=lambda name: found[name])


def ratio(measured: Mapping[str, Sequence[Round]], one: str, other: str, key: str) -> Ratio | None:
    """Compare a figure of two subjects round by round; None: no round has both."""
    values = [
        a / b
        for x, y in zip(measured.get(one, ()), measured.get(other, ()), strict=False)
        if (a := x.figures.get(key)) is not None and (b := y.figures.get(key))
    ]
    if not values:
        return None
    return Ratio(median=statistics.median(values), low=min(values), high=max(values))


def _fails(entry: Round, scenario: str, key: str) -> bool:
    """Say whether a figure has failed in a round: its whole scenario, or the part that it belongs to."""
    return scenario in entry.failures or any(key.startswith(f"{part}_") for part in entry.failures)
