"""What the scale benchmark computes: due times, percentiles, lines, and what an answer is."""

import itertools
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.content import digest, piece
from benchmarks.scale.crowd import latencies
from benchmarks.scale.http import (
    Answer,
    AnswerReader,
    CallFailed,
    blob_body,
    check_text,
    digest_body,
    echo_body,
)
from benchmarks.scale.load import Calls
from benchmarks.scale.numbers import due_times, line_fit, per_step, percentile, spread
from benchmarks.scale.result import Figure, Series, listed, shown, store


def test_calls_are_due_at_even_times_from_the_start() -> None:
    assert due_times(4, 1) == [0, 0.25, 0.5, 0.75]


def test_the_last_call_is_due_before_the_end() -> None:
    assert due_times(200, 0.5)[-1] < 0.5
    assert len(due_times(200, 0.5)) == 100


@pytest.mark.parametrize(("percent", "value"), [(0, 1), (50, 50), (99, 99), (99.9, 100), (100, 100)])
def test_a_percentile_is_one_of_the_values(percent: float, value: float) -> None:
    assert percentile([float(number) for number in range(100, 0, -1)], percent) == value


def test_there_is_no_percentile_of_nothing() -> None:
    assert percentile([], 99) is None


@given(st.lists(st.floats(0, 1e6), min_size=1), st.floats(0, 100))
def test_so_many_percent_do_not_exceed_the_percentile(values: list[float], percent: float) -> None:
    found = percentile(values, percent)
    assert found in values
    assert sum(value <= found for value in values) >= len(values) * percent / 100 - 1e-6


def test_the_line_through_points_of_a_line_is_that_line() -> None:
    start, slope = line_fit([100, 1024, 1_048_576], [80 + 0.001 * x for x in (100, 1024, 1_048_576)])
    assert start == pytest.approx(80)
    assert slope == pytest.approx(0.001)


def test_the_largest_cost_alone_does_not_decide_the_line() -> None:
    start, _ = line_fit([0, 1, 2, 1_000_000], [10, 10, 10, 3000])
    assert start == pytest.approx(10, rel=0.01)


@pytest.mark.parametrize(("x", "y"), [([1], [1]), ([1, 2], [0, 1])])
def test_a_line_needs_two_costs_above_zero(x: list[float], y: list[float]) -> None:
    with pytest.raises(ValueError, match="expected two or more points"):
        line_fit(x, y)


def test_what_each_one_more_cost_is_taken_from_one_reading_to_the_next() -> None:
    assert per_step([10, 20, 40], [100, 150, 170]) == [5, 1]
    assert per_step([10, 20, 40], [100, None, 170]) == [None, None]


def test_the_spread_of_flat_costs_is_one() -> None:
    assert spread([7.0, None, 7.0]) == 1
    assert spread([2.0, 8.0, 4.0]) == 4
    assert spread([None, 3.0]) is None


def test_a_plot_shows_the_worst_call_of_each_tenth_of_a_second() -> None:
    calls = Calls(due=[0.95, 1.01, 1.02, 1.31], latency=[0.001, 0.002, 0.004, 0.003])
    series = latencies("calls", calls, began=1.0)
    assert series.x == [-0.1, 0, 0.3]
    assert series.y == [1, 4, 3]


_ANSWERS = (
    b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nMCP-Session-Id: a-1\r\ncontent-length: 2\r\n\r\n{}"
    b"HTTP/1.1 202 Accepted\r\ncontent-length: 0\r\n\r\n"
    b"HTTP/1.1 503 Service Unavailable\r\nContent-Length:  3\r\n\r\nfoo"
)


@given(st.lists(st.integers(0, len(_ANSWERS))))
def test_answers_do_not_depend_on_how_their_bytes_come(cuts: list[int]) -> None:
    reader = AnswerReader()
    places = [0, *sorted(cuts), len(_ANSWERS)]
    found = [
        answer for start, end in itertools.pairwise(places) for answer in reader.feed(_ANSWERS[start:end])
    ]
    assert found == [
        Answer(status=200, session="a-1", body=b"{}"),
        Answer(status=202, session=None, body=b""),
        Answer(status=503, session=None, body=b"foo"),
    ]


def test_an_answer_without_a_length_is_refused() -> None:
    with pytest.raises(CallFailed, match="expected a Content-Length"):
        AnswerReader().feed(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")


def test_a_head_without_an_end_is_refused() -> None:
    with pytest.raises(CallFailed, match="expected the head of an answer"):
        AnswerReader().feed(b"x" * 20_000)


def _answer(identity: int, text: str, *, status: int = 200, compact: bool = True) -> Answer:
    message = {"jsonrpc": "2.0", "id": identity, "result": {"content": [{"type": "text", "text": text}]}}
    separators = (",", ":") if compact else (", ", ": ")
    return Answer(status=status, session=None, body=json.dumps(message, separators=separators).encode())


@pytest.mark.parametrize("compact", [True, False])
def test_an_answer_is_right_however_its_json_is_spaced(*, compact: bool) -> None:
    check_text(_answer(7, "hello", compact=compact), 7, "hello")


@pytest.mark.parametrize(
    "answer",
    [
        _answer(8, "hello"),
        _answer(7, "of somebody else"),
        _answer(7, "hello", status=500),
        Answer(status=200, session=None, body=b"no JSON"),
        Answer(status=200, session=None, body=b"[]"),
        Answer(status=200, session=None, body=b'{"jsonrpc":"2.0","id":7,"error":{"code":-1,"message":"no"}}'),
    ],
)
def test_every_other_answer_is_wrong(answer: Answer) -> None:
    with pytest.raises(CallFailed, match="expected 'hello' for id 7"):
        check_text(answer, 7, "hello")


@pytest.mark.parametrize("body", [echo_body(7, "a b"), blob_body(7, 16), digest_body(7, "abc")])
def test_a_call_is_json_with_its_id(body: bytes) -> None:
    message = json.loads(body)
    assert message["id"] == 7
    assert message["method"] == "tools/call"


def test_sums_of_a_text_know_its_length_and_its_order() -> None:
    one, other = int.from_bytes(b"12345678", "little"), int.from_bytes(b"9", "little")
    assert digest("123456789") == f"9 {one + other:016x} {2 * one + other:016x}"
    assert digest("12345678abcdefgh") != digest("abcdefgh12345678")


def test_a_long_piece_repeats_the_pattern() -> None:
    assert len(piece(0, 200_000)) == 200_000
    assert piece(0, 200_000)[65_528 : 2 * 65_528] == piece(0, 65_528)


def test_a_table_has_a_row_for_each_figure_and_says_what_is_missing() -> None:
    result = listed(
        "Title",
        [
            Figure(key="a", title="first", value=1234.5, places=1, wanted="0"),
            Figure(key="b", title="b", value=None),
        ],
        problems=["it broke"],
    )
    assert shown(result).splitlines() == [
        "Title",
        "       measured  wanted",
        "first   1,234.5       0",
        "b             -",
        "it broke",
    ]


def test_figures_and_lines_of_all_parts_are_stored(tmp_path: Path) -> None:
    series = Series(name="s", x=[1, 2], y=[3, None], x_label="sessions", y_label="ms")
    path = tmp_path / "new" / "scale.json"
    store(path, [listed("", [Figure(key="a", title="", value=1)], series=[series]), listed("", [])])
    assert json.loads(path.read_text()) == {
        "figures": {"a": 1},
        "series": [{"name": "s", "x": [1, 2], "y": [3, None], "x_label": "sessions", "y_label": "ms"}],
    }
