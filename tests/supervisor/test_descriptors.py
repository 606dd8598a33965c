"""Our limit on open files goes up, a child's stays."""

import errno
import resource
from collections.abc import Iterator

import pytest

from stdio_broker.supervisor import descriptors, raise_descriptor_limit
from stdio_broker.supervisor.descriptors import restore_descriptor_limit


@pytest.fixture(autouse=True)
def limits(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[int, int]]:
    """Lower our soft limit, so that there is something to raise; return both."""
    monkeypatch.setattr(descriptors, "_original", None)
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowered = (min(before[0], 300), before[1])
    resource.setrlimit(resource.RLIMIT_NOFILE, lowered)
    yield lowered
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


@pytest.fixture
def changed(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, tuple[int, int]]]:
    """Return what children are given, which is only recorded."""
    calls: list[tuple[int, tuple[int, int]]] = []
    monkeypatch.setattr(resource, "prlimit", lambda pid, _, value: calls.append((pid, value)))
    return calls


def test_our_soft_limit_becomes_the_hard_one_and_children_keep_ours_of_before(
    limits: tuple[int, int], changed: list[tuple[int, tuple[int, int]]]
) -> None:
    raise_descriptor_limit()
    assert resource.getrlimit(resource.RLIMIT_NOFILE) == (limits[1], limits[1])
    restore_descriptor_limit(7)
    assert changed == [(7, limits)]


def test_raising_it_again_does_not_forget_what_it_was_at_first(
    limits: tuple[int, int], changed: list[tuple[int, tuple[int, int]]]
) -> None:
    raise_descriptor_limit()
    raise_descriptor_limit()
    resource.setrlimit(resource.RLIMIT_NOFILE, (limits[0] - 1, limits[1]))
    raise_descriptor_limit()
    restore_descriptor_limit(7)
    assert changed == [(7, limits)]


def test_a_limit_that_was_not_raised_is_not_restored(changed: list[tuple[int, tuple[int, int]]]) -> None:
    restore_descriptor_limit(7)
    assert changed == []


def test_a_system_that_refuses_to_raise_it_keeps_it(
    limits: tuple[int, int], changed: list[tuple[int, tuple[int, int]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """On macOS the hard limit is "unlimited", and that is more than it allows."""

    def refuse(*_: object) -> None:
        raise ValueError("current limit exceeds maximum limit")

    with monkeypatch.context() as patch:
        patch.setattr(resource, "setrlimit", refuse)
        raise_descriptor_limit()
    assert resource.getrlimit(resource.RLIMIT_NOFILE) == limits
    restore_descriptor_limit(7)
    assert changed == []


def test_a_child_whose_limit_may_not_be_changed_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """A set-uid program, sudo for one: no reason to refuse to start it."""
    calls: list[int] = []

    def refuse(pid: int, *_: object) -> None:
        calls.append(pid)
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(resource, "prlimit", refuse)
    raise_descriptor_limit()
    restore_descriptor_limit(7)
    assert calls == [7]


def test_a_system_that_cannot_change_the_limit_of_another_process_leaves_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """There is no prlimit on macOS."""
    raise_descriptor_limit()
    monkeypatch.delattr(resource, "prlimit")
    restore_descriptor_limit(7)
