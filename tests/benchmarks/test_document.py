"""The generated part of a document that people write."""

import pytest

from benchmarks.document import MarkerError, replaced

_BEGIN, _END = "<!-- bench: results -->\n", "<!-- end of bench: results -->\n"


def test_what_stands_between_the_markers_is_replaced_and_nothing_else() -> None:
    document = f"# Title\n\nby hand\n\n{_BEGIN}\nold\n{_END}\nalso by hand\n"
    expected = f"# Title\n\nby hand\n\n{_BEGIN}\nnew\n\n{_END}\nalso by hand\n"
    assert replaced(document, "results", "\nnew\n\n") == expected


def test_replacing_twice_is_replacing_once() -> None:
    once = replaced(f"{_BEGIN}{_END}", "results", "text")
    assert replaced(once, "results", "text") == once


def test_parts_of_other_names_stay() -> None:
    other = "<!-- bench: soak -->\nkept\n<!-- end of bench: soak -->\n"
    assert replaced(f"{other}{_BEGIN}old\n{_END}", "results", "new").startswith(other)


def test_what_is_written_may_speak_of_backslashes() -> None:
    assert r"a \1 \g<0> b" in replaced(f"{_BEGIN}{_END}", "results", r"a \1 \g<0> b")


@pytest.mark.parametrize(
    "document",
    ["", _BEGIN, _END, f"{_BEGIN}{_END}{_BEGIN}{_END}", f"{_END}{_BEGIN}", f"{_BEGIN}{_END}".strip()],
)
def test_without_exactly_one_place_for_it_nothing_is_written(document: str) -> None:
    with pytest.raises(MarkerError, match="bench: results"):
        replaced(document, "results", "text")
