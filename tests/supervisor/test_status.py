"""How a child ended, without ambiguity: a code or a signal, and at which step."""

import signal

import pytest

from stdio_broker.supervisor import ExitStatus, Phase


@pytest.mark.parametrize(
    "status",
    [
        ExitStatus(code=0, signal=None),
        ExitStatus(code=3, signal=None, phase=Phase.EOF),
        ExitStatus(code=None, signal=15, phase=Phase.TERM),
    ],
)
def test_an_end_is_good_if_it_is_clean_or_was_asked_for_and_obeyed(status: ExitStatus) -> None:
    assert status.ok


@pytest.mark.parametrize(
    "status",
    [
        ExitStatus(code=1, signal=None),
        ExitStatus(code=None, signal=9),
        ExitStatus(code=None, signal=None),
        ExitStatus(code=None, signal=9, phase=Phase.KILL),
        ExitStatus(code=None, signal=None, phase=Phase.UNKILLABLE),
    ],
)
def test_every_other_end_is_bad(status: ExitStatus) -> None:
    assert not status.ok


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (ExitStatus(code=0, signal=None), "exited with code 0"),
        (ExitStatus(code=255, signal=None), "exited with code 255"),
        (ExitStatus(code=None, signal=15, phase=Phase.TERM), "ended by SIGTERM"),
        (ExitStatus(code=None, signal=11, core=True), "ended by SIGSEGV (core dumped)"),
        (ExitStatus(code=None, signal=signal.SIGRTMIN + 1), f"ended by signal {signal.SIGRTMIN + 1}"),
        (ExitStatus(code=None, signal=None), "ended with an unknown status"),
        (
            ExitStatus(code=None, signal=None, phase=Phase.UNKILLABLE),
            "has not ended, although SIGKILL was sent",
        ),
    ],
)
def test_it_says_how_a_child_ended_in_words(status: ExitStatus, words: str) -> None:
    assert str(status) == words
