"""What is plotted, in which order."""

from benchmarks.plots import Curve, Sheet, of_results, of_sheet
from tests.benchmarks.figures import peer, results, rounds, subject

_RESULTS = results(
    [peer("bad"), peer("slow"), subject("ours"), peer("not asked")],
    {
        "bad": rounds("many_rps", [None]),
        "slow": rounds("many_rps", [10]),
        "ours": rounds("many_rps", [90]),
        "not asked": [],
    },
)


def _curve(name: str, unit: str) -> Curve:
    return Curve(name=name, x=[1, 2], y=[3, None], x_label="minutes", y_label=unit)


def test_the_best_is_on_top_who_fails_at_the_end_and_who_was_not_asked_nowhere() -> None:
    (plot,) = of_results(_RESULTS)
    assert [(bar.label, bar.values) for bar in plot.bars] == [("ours", [90]), ("slow", [10]), ("bad", [None])]


def test_for_latency_the_lowest_is_on_top() -> None:
    measured = {"slow": rounds("one_p50_us", [90], "one"), "fast": rounds("one_p50_us", [10], "one")}
    (plot,) = of_results(results([peer("slow"), peer("fast")], measured))
    assert [bar.label for bar in plot.bars] == ["fast", "slow"]
    assert plot.series == ("p50", "p99")


def test_curves_with_the_same_axes_share_a_panel_and_counts_do_not() -> None:
    sheet = Sheet(
        series=[_curve("RSS", "MB"), _curve("threads", ""), _curve("PSS", "MB"), _curve("p99 of all", "ms")]
    )
    panels = of_sheet("soak", "title", sheet).panels
    assert [(panel.y_label, [curve.name for curve in panel.curves]) for panel in panels] == [
        ("MB", ["RSS", "PSS"]),
        ("threads", ["threads"]),
        ("p99 of all, ms", ["p99 of all"]),
    ]
