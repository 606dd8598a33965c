"""Logs for people and for machines, and text that is safe to show."""

from __future__ import annotations

import io
import json
import logging
import re
import subprocess
import sys
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stdio_broker.telemetry import (
    MIN_PART_CHARS,
    LogFormat,
    LogLevel,
    Redaction,
    configure_logging,
    printable,
    redact,
)


@pytest.fixture(autouse=True)
def _own_logging() -> Iterator[None]:
    """Give the process its logging back."""
    root, library = logging.getLogger(), logging.getLogger("alembic")
    before = root.handlers[:], root.level, library.level
    # What is there is pytest's; `configure_logging` would close it.
    root.handlers.clear()
    yield
    for handler in root.handlers:
        handler.close()
    root.handlers[:], level, library_level = before
    root.setLevel(level)
    library.setLevel(library_level)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def logged(
    log_format: LogFormat = "json", level: LogLevel = "info", stream: io.StringIO | None = None
) -> io.StringIO:
    """Log one record of each level and return what was written."""
    stream = io.StringIO() if stream is None else stream
    configure_logging(level, log_format, stream)
    logger = logging.getLogger("stdio_broker.test")
    for name in ("debug", "info", "warning", "error"):
        getattr(logger, name)(f"event.{name}", extra={"pid": 7, "problem": "a b\x1b[2Jc"})
    return stream


def test_json_is_one_object_per_line_with_the_facts_beside_the_event() -> None:
    """Style guide, "Logging": a constant event name, facts in `extra`."""
    entries = [json.loads(line) for line in logged().getvalue().splitlines()]
    assert [entry["event"] for entry in entries] == ["event.info", "event.warning", "event.error"]
    assert [entry["level"] for entry in entries] == ["info", "warning", "error"]
    for entry in entries:
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", entry["time"])
        assert entry["logger"] == "stdio_broker.test"
        assert (entry["pid"], entry["problem"]) == (7, "a b\x1b[2Jc")


def test_the_human_form_is_one_line_per_event_that_is_safe_on_a_terminal() -> None:
    """Ours: what a stranger has written must not move the cursor of an operator."""
    first, *_ = logged("human").getvalue().splitlines()
    assert re.fullmatch(r"\d\d:\d\d:\d\d info +event\.info pid=7 problem=a bc", first)


def test_facts_that_are_not_known_are_left_out_for_people() -> None:
    """Ours: `exit_signal=None` tells nobody anything."""
    stream = io.StringIO()
    configure_logging("info", "human", stream)
    logging.getLogger("x").info("child.exited", extra={"exit_code": 0, "exit_signal": None})
    assert stream.getvalue().endswith("child.exited exit_code=0\n")


@pytest.mark.parametrize(("stream", "human"), [(io.StringIO(), False), (Terminal(), True)])
def test_auto_is_human_on_a_terminal_and_json_otherwise(stream: io.StringIO, *, human: bool) -> None:
    """Ours: `--log-format auto`."""
    assert logged("auto", stream=stream).getvalue().startswith("{") is not human


@pytest.mark.parametrize(("level", "count"), [("debug", 4), ("info", 3), ("warning", 2), ("error", 1)])
def test_only_events_of_the_level_and_above_are_shown(level: LogLevel, count: int) -> None:
    """Ours: `--log-level`."""
    assert len(logged(level=level).getvalue().splitlines()) == count


@pytest.mark.parametrize("log_format", ["json", "human"])
def test_an_unexpected_error_is_shown_with_its_traceback(log_format: LogFormat) -> None:
    """Style guide, "Logging": `logger.exception`."""
    stream = io.StringIO()
    configure_logging("info", log_format, stream)
    try:
        "".index("é\nof somebody")
    except ValueError:
        logging.getLogger("x").exception("session.failed", extra={"thing": object()})
    text = stream.getvalue()
    assert "ValueError" in text
    if log_format == "json":
        (line,) = text.splitlines()
        assert "Traceback" in json.loads(line)["exception"]


def test_what_a_library_says_of_its_life_is_no_news() -> None:
    """Ours: what happens is told by our own events."""
    stream = io.StringIO()
    configure_logging("info", "json", stream)
    logging.getLogger("alembic.runtime.migration").info("Context impl SQLiteImpl.")
    logging.getLogger("alembic.runtime.migration").warning("Generating uncommon SQL.")
    (line,) = stream.getvalue().splitlines()
    assert json.loads(line)["level"] == "warning"


def test_configuring_again_replaces_what_was_before() -> None:
    """Ours: a record is never shown twice."""
    old, new = io.StringIO(), io.StringIO()
    configure_logging("info", "json", old)
    configure_logging("info", "json", new)
    logging.getLogger("x").info("event")
    assert (old.getvalue(), len(new.getvalue().splitlines())) == ("", 1)


def test_logs_go_to_stderr_by_default() -> None:
    """design.md, 5: stdout carries the one line with the URL."""
    program = (
        "import logging; from stdio_broker.telemetry import configure_logging;"
        "configure_logging('info', 'json'); logging.getLogger('x').info('event')"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, timeout=20, check=True)
    assert done.stdout == b""
    assert json.loads(done.stderr)["event"] == "event"


@given(text=st.text())
def test_printable_text_has_no_control_characters(text: str) -> None:
    """Ours: no escape sequence, no newline, no character that reverses the direction of writing."""
    assert all(character.isprintable() or character == "\t" for character in printable(text))


@given(text=st.text(st.characters(categories=["L", "N", "P", "S", "Zs"], exclude_characters="\x1b")))
def test_ordinary_text_is_shown_as_it_is(text: str) -> None:
    """Ours: whatever its language."""
    visible = "".join(character for character in text if character.isprintable())
    assert printable(visible) == visible


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[31mred\x1b[0m", "red"),
        ("\x1b]0;title\x07", "\\x1b]0;title\\x07"),
        ("a\tb", "a\tb"),
        ("a\r\nb", "a\\x0d\\x0ab"),
        ("a\u202eb", "a\\x202eb"),
        ("\x9b31m", "\\x9b31m"),
    ],
)
def test_colours_are_dropped_and_other_control_characters_are_made_visible(text: str, shown: str) -> None:
    """Ours: colours are common in stderr, and mean no harm; the rest is shown, because it means something."""
    assert printable(text) == shown


@pytest.mark.parametrize("order", [1, -1])
def test_redacted_text_holds_no_part_of_a_secret(order: int) -> None:
    """design.md, 6.8; also where one secret begins like another, in whatever order they come."""
    secrets = ["hunter2", "hunter2-and-more"][::order]
    assert redact("token hunter2-and-more, hunter2.", secrets) == "token [redacted], [redacted]."


def test_a_key_for_this_broker_is_redacted_whosever_it_is() -> None:
    """Threat T24: a user may paste one into a call, and a server logs what it is called with."""
    key = "stdiob_key_" + "aZ9" * 16 + "q"
    assert redact(f"Authorization: Bearer {key}, again {key[:20]}", []) == (
        "Authorization: Bearer [redacted], again [redacted]"
    )


@given(
    secret=st.text("abcdefghijklmnop", min_size=8, max_size=40),
    before=st.text("xyz ", max_size=90),
    after=st.text("xyz ", max_size=90),
    size=st.integers(40, 80),
)
def test_of_a_secret_that_is_cut_in_two_next_to_nothing_is_left(
    secret: str, before: str, after: str, size: int
) -> None:
    """design.md, 6.8: lines that are too long come in pieces, and what is kept of them is shortened."""
    whole = before + secret + after
    redaction = Redaction([secret], cut_bytes=size)
    shown = [redaction.line(whole[start : start + size]) for start in range(0, len(whole), size)]
    left = "".join(shown).replace("[redacted]", "")
    assert sum(letter in "abcdefghijklmnop" for letter in left) < 2 * MIN_PART_CHARS
    assert "".join(letter for letter in left if letter in "xyz ") == before + after


def test_a_line_that_is_not_cut_is_left_alone_at_its_ends() -> None:
    """Ours: words that begin or end like a secret are words."""
    redaction = Redaction(["hunter2-token"], cut_bytes=1000)
    assert [redaction.line("a big hunter"), redaction.line("token")] == ["a big hunter", "token"]


def test_a_cut_counts_bytes() -> None:
    """Ours: a piece is so many bytes, in whatever alphabet."""
    redaction = Redaction(["hunter2-token"], cut_bytes=17)
    assert redaction.line("äöüä hunter2-") == "äöüä [redacted]"
    assert redaction.line("token") == "[redacted]"


def test_text_without_secrets_is_left_alone() -> None:
    """Ours: also where there are no secrets at all."""
    assert redact("text", ["hunter2"]) == "text"
    assert redact("text", []) == "text"
