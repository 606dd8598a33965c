"""Tables: what stands in a cell, and how it is written."""

from benchmarks.results import Round
from benchmarks.scenarios import Column, Scenario
from benchmarks.tables import Table, of_failures, of_ratios, of_scenario
from tests.benchmarks.figures import peer, results, rounds, subject

_MANY = Scenario(
    name="many",
    title="many",
    columns=(
        Column(key="many_rps", title="calls/s"),
        Column(key="many_us", title="µs", places=1),
        Column(key="exit_s", title="exit", group="the end", none="never"),
    ),
)


def test_cells_hold_medians_and_what_is_missing_says_why() -> None:
    figures = [
        Round(figures={"many_rps": rps, "many_us": 2.0, "exit_s": None}, asked=["many"]) for rps in (1, 2e3)
    ]
    measured = {"ours": figures, "bad": rounds("many_rps", [None]), "idle": [Round(figures={})]}
    found = results([subject("ours"), peer("bad"), peer("idle")], measured)
    first, second = of_scenario(found, _MANY)
    assert first.rows == [["ours", "1,000", "2.0"], ["bad", "fails", "fails"]]
    assert second.title == "many: the end"
    assert second.rows == [["ours", "never"], ["bad", "fails"]]


def test_a_scenario_that_nobody_was_asked_has_no_table() -> None:
    assert of_scenario(results([subject("ours")], {"ours": [Round(figures={})]}), _MANY) == []


def test_failures_say_how_often_and_what_came_first() -> None:
    parts = Round(figures={}, asked=["large"], failures={"large_16_result": "HTTP 413"})
    measured = {"a": rounds("k", [1, None, None]), "b": [parts], "c": [Round(figures={"left": 7})]}
    assert of_failures(results([], measured)) == [
        "a, many: failed in 2 of 3 rounds, first with: `no answer`",
        "b, large_16_result: failed in 1 of 1 rounds, first with: `HTTP 413`",
        "c: 7 processes alive after it had ended",
    ]


def test_a_ratio_shows_its_spread_and_one_without_figures_is_left_out() -> None:
    measured = {"a": rounds("k", [1, 2, 4]), "b": rounds("k", [1, 1, 1])}
    table = of_ratios(results([], measured), [("what", "a", "b", "k"), ("else", "a", "nobody", "k")])
    assert table.rows == [["what", "a / b", "2 (1 to 4)"]]


def test_a_table_is_written_for_a_terminal_and_for_a_document() -> None:
    table = Table(title="T", header=["", "n"], rows=[["a|b", "10"], ["c", "2"]])
    assert table.plain() == "T\n      n\na|b  10\nc     2"
    assert table.markdown() == "**T**\n\n|  | n |\n| --- | ---: |\n| a\\|b | 10 |\n| c | 2 |"
