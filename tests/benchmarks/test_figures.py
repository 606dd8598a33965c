"""Medians, ratios, who fails and who is the fastest."""

from benchmarks.figures import best, failed, median, ratio, value
from benchmarks.results import Round
from tests.benchmarks.figures import peer, results, rounds, subject


def test_a_median_leaves_out_the_rounds_that_have_no_such_figure() -> None:
    assert median([*rounds("many_rps", [1, None, 3, 8]), Round(figures={"many_rps": None})], "many_rps") == 3
    assert median([], "many_rps") is None


def test_a_ratio_is_taken_round_by_round_and_not_of_medians() -> None:
    one, other = rounds("many_rps", [10, 40, 90]), rounds("many_rps", [10, 20, 30])
    found = ratio({"a": one, "b": other}, "a", "b", "many_rps")
    assert found is not None
    assert (found.median, found.low, found.high) == (2, 1, 3)


def test_a_round_in_which_one_of_the_two_fails_is_in_no_ratio() -> None:
    measured = {"a": rounds("k", [10, None, 30]), "b": rounds("k", [5, 1, None])}
    found = ratio(measured, "a", "b", "k")
    assert found is not None
    assert (found.low, found.high) == (2, 2)
    assert ratio(measured, "a", "nobody", "k") is None


def test_zero_is_nothing_to_divide_by() -> None:
    assert ratio({"a": rounds("k", [1]), "b": rounds("k", [0])}, "a", "b", "k") is None


def test_a_peer_fails_with_half_of_its_rounds_and_we_with_one() -> None:
    once, twice = rounds("many_rps", [1, 1, 1, None]), rounds("many_rps", [1, None, 1, None])
    assert not failed(once, "many", "many_rps", strictly=False)
    assert failed(twice, "many", "many_rps", strictly=False)
    assert failed(once, "many", "many_rps", strictly=True)


def test_a_part_that_failed_takes_only_its_own_figures_with_it() -> None:
    entry = Round(
        figures={"large_1_result_mibs": 5.0}, asked=["large"], failures={"large_16_result": "HTTP 413"}
    )
    assert failed([entry], "large", "large_16_result_peak", strictly=True)
    assert not failed([entry], "large", "large_1_result_mibs", strictly=True)
    assert not failed([entry], "beside", "beside_16_result_p99_ms", strictly=True)


def test_what_a_subject_failed_has_no_value() -> None:
    found = results([subject("ours")], {"ours": rounds("many_rps", [1, None, 1])})
    assert value(found, "ours", "many", "many_rps") is None


def test_the_fastest_peer_is_one_that_does_not_fail() -> None:
    measured = {
        "ours": rounds("many_rps", [90, 90]),
        "fast but wrong": rounds("many_rps", [70, None]),
        "slow": rounds("many_rps", [3, 3]),
        "faster": rounds("many_rps", [5, 5]),
    }
    found = results([subject("ours"), *(peer(name) for name in list(measured)[1:])], measured)
    assert best(found, "many", "many_rps") == "faster"
    assert best(found, "many", "many_rps", lowest=True) == "slow"
    assert best(found, "many", "many_rps", among=lambda name: name == "nobody") is None
