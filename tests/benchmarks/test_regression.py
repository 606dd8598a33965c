"""What counts as a regression, and what as noise."""

from benchmarks.regression import Expected, Watched, found_of, verdicts
from benchmarks.subjects import BROKER
from tests.benchmarks.figures import rounds

_LESS = Watched(name="CPU", other="constant", key="cpu_us", tolerance=0.15)
_MORE = Watched(name="calls/s", other="constant", key="rps", tolerance=0.25, more_is_better=True)


def _expected(**ratios: float) -> dict[str, Expected]:
    return {name: Expected(ratio=ratio, low=ratio, high=ratio) for name, ratio in ratios.items()}


def test_a_ratio_within_the_tolerance_is_no_regression() -> None:
    assert verdicts(_expected(CPU=2.0), _expected(CPU=2.29), [_LESS]) == []
    assert verdicts(_expected(**{"calls/s": 0.5}), _expected(**{"calls/s": 0.41}), [_MORE]) == []


def test_an_improvement_is_no_regression() -> None:
    assert verdicts(_expected(CPU=2.0), _expected(CPU=0.5), [_LESS]) == []
    assert verdicts(_expected(**{"calls/s": 0.5}), _expected(**{"calls/s": 5.0}), [_MORE]) == []


def test_a_regression_is_named_with_what_was_expected_and_what_was_found() -> None:
    (line,) = verdicts(_expected(CPU=2.0), _expected(CPU=2.4), [_LESS])
    assert line == "CPU: expected 2.00 × constant, found 2.40: 20% worse, where 15% may be noise"
    (line,) = verdicts(_expected(**{"calls/s": 0.5}), _expected(**{"calls/s": 0.25}), [_MORE])
    assert line == "calls/s: expected 0.50 × constant, found 0.25: 100% worse, where 25% may be noise"


def test_a_ratio_that_could_not_be_measured_is_a_failure() -> None:
    assert verdicts(_expected(CPU=2.0), {}, [_LESS]) == ["CPU: expected 2.00 × constant, found nothing"]


def test_a_baseline_that_knows_no_such_ratio_must_be_recorded_anew() -> None:
    (line,) = verdicts({}, _expected(CPU=2.0), [_LESS])
    assert "bench-baseline" in line


def test_one_round_that_went_astray_moves_nothing() -> None:
    measured = {BROKER: rounds("cpu_us", [20, 21, 200]), "constant": rounds("cpu_us", [10, 10, 10])}
    assert found_of(measured, [_LESS]) == {"CPU": Expected(ratio=2.1, low=2.0, high=20.0)}


def test_a_ratio_without_figures_is_not_found() -> None:
    assert found_of({BROKER: rounds("cpu_us", [None])}, [_LESS]) == {}
