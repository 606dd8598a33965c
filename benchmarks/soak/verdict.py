"""What the soak has found: figures, series for plots, a table, and what is wrong."""

import itertools
import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.soak.broker import Broker, Reading
from benchmarks.soak.load import Ledger

__all__ = ["Sample", "Verdict", "problems_at_rest", "save", "slope", "table"]

# Beside the line through all samples: a step up and back is no leak, but a line may lean on it.
_MAX_GROWTH = 0.05
_LISTED = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One look at the broker under load.

    Args:
        minutes: Since the load began.
        sessions: Open, as the clients know.
        rps: Right answers a second since the last look; `p50_ms` and `p99_ms` of the small calls among them.
    """

    minutes: float
    reading: Reading
    sessions: int
    rps: float
    p50_ms: float
    p99_ms: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """All that is known at the end.

    Args:
        samples: Under load, after the warm-up.
        rest_before: With nothing to do, after the warm-up; `rest_after`: after the load.
        exit_code: After SIGTERM; `stop_seconds`: how long that took.
        left: Processes with the tag after that.
    """

    samples: Sequence[Sample]
    rest_before: Reading
    rest_after: Reading
    ledger: Ledger
    broker: Broker
    exit_code: int
    stop_seconds: float
    left: int

    def figures(self) -> dict[str, float]:
        """Return what can be told in numbers.

        Keys: `minutes` under load after the warm-up; `right`, `expected_errors` and `failures` of all
        requests; `rps` and `p99_ms` (medians); `rss_slope_kb_per_minute`; `rss_growth` of the median of the
        last third of the samples beside the second (0.05: five percent); `rest_rss_kb`, `rest_rss_growth`,
        and `rest_heap_kb`, `rest_fds`, `rest_threads`, `rest_children` after the load, each with `…_before`;
        `most_sessions`, `most_children`; `zombies` at most; `crashes` and `wakes`, which the broker's log
        counts; `exit_code`, `stop_seconds`, `left`.
        """
        readings = [sample.reading for sample in self.samples]
        before, after = self.rest_before, self.rest_after
        return {
            "minutes": self.samples[-1].minutes - self.samples[0].minutes,
            "right": self.ledger.right.total(),
            "expected_errors": self.ledger.expected.total(),
            "failures": self.ledger.failed,
            "rps": statistics.median(sample.rps for sample in self.samples),
            "p99_ms": statistics.median(sample.p99_ms for sample in self.samples),
            "rss_slope_kb_per_minute": slope([(s.minutes, s.reading.rss_kb) for s in self.samples]),
            "rss_growth": self.rss_growth,
            "rest_rss_kb": after.rss_kb,
            "rest_heap_kb": after.heap_kb,
            "rest_heap_kb_before": before.heap_kb,
            "rest_rss_growth": after.rss_kb / before.rss_kb - 1,
            **{
                key: value
                for name in ("fds", "threads", "children")
                for key, value in (
                    (f"rest_{name}", getattr(after, name)),
                    (f"rest_{name}_before", getattr(before, name)),
                )
            },
            "most_sessions": max(sample.sessions for sample in self.samples),
            "most_children": max(reading.children for reading in readings),
            "zombies": max(reading.zombies for reading in readings),
            "crashes": self.broker.events["session.lost_child"],
            "wakes": self.broker.events["session.woken"],
            "exit_code": self.exit_code,
            "stop_seconds": self.stop_seconds,
            "left": self.left,
        }

    @property
    def rss_growth(self) -> float:
        """How much more memory the last third of the samples has than the second."""
        third = len(self.samples) // 3
        memory = [sample.reading.rss_kb for sample in self.samples]
        return statistics.median(memory[2 * third :]) / statistics.median(memory[third : 2 * third]) - 1

    def problems(self) -> list[str]:
        """Return what is wrong, in words; nothing if the broker has passed."""
        found = [f"{self.ledger.failed} requests failed, or were answered wrongly"] * bool(self.ledger.failed)
        found += [f"{count} x {text}" for text, count in self.ledger.failures.most_common(_LISTED)]
        found += [f"the broker's log: {line}" for line in self.broker.serious[:_LISTED]]
        if self.rss_growth > _MAX_GROWTH:
            found.append(f"under load, memory has grown by {self.rss_growth:.1%} from one third to the next")
        found += problems_at_rest(self.rest_before, self.rest_after)
        if self.exit_code:
            found.append(f"expected exit code 0 after SIGTERM, found {self.exit_code}")
        if self.left:
            found.append(f"{self.left} processes are left after the broker's end")
        return found


def slope(points: Sequence[tuple[float, float]]) -> float:
    """Return how steep the line through points is (least squares)."""
    return statistics.linear_regression(*zip(*points, strict=True)).slope


def problems_at_rest(before: Reading, after: Reading) -> list[str]:
    """Return what there is more of with nothing to do than there was before."""
    found = []
    for name in ("fds", "threads", "children", "zombies"):
        was, now = getattr(before, name), getattr(after, name)
        if now > was:
            found.append(f"at rest, expected {was} {name} as before, found {now}")
    if after.rss_kb > before.rss_kb * (1 + _MAX_GROWTH):
        found.append(f"at rest, expected {before.rss_kb} KB of memory as before, found {after.rss_kb} KB")
    return found


def table(verdict: Verdict) -> str:
    """Lay out figures, answers by kind and the samples."""
    lines = [f"{name:28} {value:14,.3f}".rstrip("0").rstrip(".") for name, value in verdict.figures().items()]
    lines += ["", "right answers, and errors that had to come"]
    for counts in (verdict.ledger.right, verdict.ledger.expected):
        lines += [f"  {kind:36} {count:10,}" for kind, count in sorted(counts.items())]
    lines += [
        "",
        "  minute    RSS KB    PSS KB   heap KB   fds  threads  children  zombies  sessions  calls/s  p99 ms",
    ]
    step = max(1, len(verdict.samples) // 30)
    for sample in itertools.islice(verdict.samples, 0, None, step):
        one = sample.reading
        lines.append(
            f"{sample.minutes:8.1f}{one.rss_kb:10,}{one.pss_kb:10,}{one.heap_kb:10,}{one.fds:6}{one.threads:9}{one.children:10}"
            f"{one.zombies:9}{sample.sessions:10}{sample.rps:9.0f}{sample.p99_ms:8.1f}"
        )
    return "\n".join(lines)


def save(verdict: Verdict, path: Path, facts: Mapping[str, float]) -> None:
    """Write figures, series and what is wrong as JSON: `{"figures": {…}, "series": […], "problems": […]}`."""
    samples = verdict.samples
    columns = {
        "RSS": ("MB", [sample.reading.rss_kb / 1024 for sample in samples]),
        "PSS": ("MB", [sample.reading.pss_kb / 1024 for sample in samples]),
        "heap": ("MB", [sample.reading.heap_kb / 1024 for sample in samples]),
        "open files": ("", [sample.reading.fds for sample in samples]),
        "threads": ("", [sample.reading.threads for sample in samples]),
        "children": ("", [sample.reading.children for sample in samples]),
        "zombies": ("", [sample.reading.zombies for sample in samples]),
        "sessions": ("", [sample.sessions for sample in samples]),
        "calls per second": ("", [sample.rps for sample in samples]),
        "p99 of small calls": ("ms", [sample.p99_ms for sample in samples]),
    }
    series = [
        {"name": name, "x": [s.minutes for s in samples], "y": values, "x_label": "minutes", "y_label": unit}
        for name, (unit, values) in columns.items()
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    found = {"figures": {**facts, **verdict.figures()}, "series": series, "problems": verdict.problems()}
    path.write_text(json.dumps(found, indent=1) + "\n")
