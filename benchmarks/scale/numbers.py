"""The arithmetic of the scale benchmark: due times, percentiles, what grows and what does not. Pure."""

import itertools
import math
from collections.abc import Sequence

__all__ = ["due_times", "line_fit", "per_step", "percentile", "spread"]


def due_times(rate: float, seconds: float) -> list[float]:
    """Return when each call is due, in seconds after the start: evenly, whatever became of those before.

    Source: G. Tene, "How NOT to Measure Latency" (2013), "Coordinated omission": a client that waits for
    an answer before it asks again does not ask while the server stalls, and so hides the stall.
    """
    return [number / rate for number in range(math.floor(rate * seconds))]


def percentile(values: Sequence[float], percent: float) -> float | None:
    """Return the smallest value that so many percent of all do not exceed (nearest rank); None of none."""
    if not values:
        return None
    rank = math.ceil(len(values) * percent / 100)
    return sorted(values)[max(1, rank) - 1]


def line_fit(x: Sequence[float], y: Sequence[float]) -> tuple[float, float]:
    """Return start and slope of the straight line that is nearest by relative squares.

    Relative, because costs span three powers of ten: else the largest alone would decide.

    Raises:
        ValueError: Fewer than two points, or a cost that is not more than 0.
    """
    if len(x) < 2 or min(y) <= 0:
        raise ValueError(
            f"expected two or more points with costs above 0, found {list(zip(x, y, strict=True))}"
        )
    weights = [1 / value**2 for value in y]
    total = sum(weights)
    mean_x = sum(w * a for w, a in zip(weights, x, strict=True)) / total
    mean_y = sum(w * b for w, b in zip(weights, y, strict=True)) / total
    products = sum(w * (a - mean_x) * (b - mean_y) for w, a, b in zip(weights, x, y, strict=True))
    squares = sum(w * (a - mean_x) ** 2 for w, a in zip(weights, x, strict=True))
    slope = products / squares
    return mean_y - slope * mean_x, slope


def per_step(amounts: Sequence[float], readings: Sequence[float | None]) -> list[float | None]:
    """Return what each one more has cost from one reading to the next; None where one is missing.

    The amounts are how many there were at each reading; they grow.
    """
    pairs = list(zip(amounts, readings, strict=True))
    return [
        None if before is None or after is None else (after - before) / (more - fewer)
        for (fewer, before), (more, after) in itertools.pairwise(pairs)
    ]


def spread(values: Sequence[float | None]) -> float | None:
    """Return the greatest by the least of those that are known: 1 is flat. None: fewer than two are known."""
    known = [value for value in values if value is not None and value > 0]
    return max(known) / min(known) if len(known) > 1 else None
