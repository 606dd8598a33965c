"""The whole text, as it is printed and as it is documented."""

from pathlib import Path

from benchmarks.report import markdown, plain
from benchmarks.results import Results
from benchmarks.subjects import BROKER
from tests.benchmarks.figures import peer, results, rounds, subject

_RESULTS = results(
    [subject(BROKER), peer("slow")],
    {BROKER: rounds("many_rps", [90, 90]), "slow": rounds("many_rps", [10, None])},
)


def test_results_are_the_same_after_they_were_written_and_read(tmp_path: Path) -> None:
    _RESULTS.write(tmp_path / "results.json")
    read = Results.read(tmp_path / "results.json")
    assert plain(read, {}) == plain(_RESULTS, {})


def test_the_document_says_where_when_and_with_what_it_was_measured() -> None:
    text = markdown(_RESULTS, {}, [("A plot", "performance/many.svg")])
    assert "Measured on 2026-01-02 with `a command`: 2 rounds of 1 s." in text
    assert (
        "Machine: 2 cores (a CPU), x86_64, Linux 6.1, CPython 3.11; load average at the start: 0.00." in text
    )
    assert "Versions: stdio-broker 1." in text
    assert "![A plot](performance/many.svg)" in text


def test_what_went_wrong_stands_below_the_tables() -> None:
    for text in (plain(_RESULTS, {}), markdown(_RESULTS, {}, [])):
        assert "slow, many: failed in 1 of 2 rounds, first with: `no answer`" in text
        assert "a note" in text
