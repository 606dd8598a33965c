"""F16: whichever descriptor cannot be had, a start fails as a whole and leaves nothing.

The descriptors of a whole `start` are allowed one by one, until it succeeds: once with the guard, and once as
if it had seen nothing coming. Threads that cannot be had, and a selector that is full: `test_child.py`.
"""

import contextlib
import subprocess
from typing import Literal, TypeAlias

import pytest

from stdio_broker.errors import CapacityError
from stdio_broker.supervisor import Config, start
from stdio_broker.supervisor import spawner as spawner_module
from stdio_broker.supervisor.capacity import DESCRIPTOR_RESERVE
from stdio_broker.supervisor.spawner import Spawner
from tests.supervisor.children import command, start_ready
from tests.supervisor.limits import only_free_descriptors
from tests.support.leaks import Resources

pytestmark = pytest.mark.both_loops

Level: TypeAlias = Literal["group", "auto", "shim"]

# The ends of three pipes, and of the one by which exec reports an error. A pidfd takes the place of one of
# these, when they are closed; a shim has both ends of its socket besides.
PIPE_ENDS = 6
NEEDED: dict[Level, int] = {"group": 8, "auto": 8, "shim": 10}

each_level = pytest.mark.parametrize("level", NEEDED)


def patient(level: Level, mode: str = "polite") -> Config:
    return Config(cmd=command(mode), containment=level, eof_grace=20, stop_grace=20)


@pytest.fixture
def no_guard(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every start find out by itself that nothing is left."""
    monkeypatch.setattr(spawner_module, "refuse_when_full", lambda *_: None)


async def start_with_ever_more_descriptors(config: Config, spawner: Spawner) -> list[CapacityError]:
    """Start with none left, with one, two… until it succeeds; return the errors before that."""
    errors: list[CapacityError] = []
    for free in range(DESCRIPTOR_RESERVE + 20):
        # Not only at the end of the test, when a later round may have hidden what an earlier one has left.
        before = Resources.now()
        with only_free_descriptors(free):
            try:
                child = await start(config, spawner=spawner)
            except CapacityError as exc:
                errors.append(exc)
            else:
                await child.stop()
                return errors
        assert Resources.now().added_since(before) == [], f"left behind with {free} descriptors"
    raise AssertionError("no number of descriptors is enough")


@each_level
async def test_each_descriptor_that_cannot_be_had_fails_the_start_and_leaks_none(
    level: Level, each_watch: str, spawner: Spawner, no_guard: None
) -> None:
    errors = await start_with_ever_more_descriptors(patient(level), spawner)
    assert len(errors) == NEEDED[level]
    assert {(exc.resource, exc.used) for exc in errors} == {("file descriptors", None)}


async def test_the_guard_refuses_a_start_as_long_as_it_would_leave_less_than_the_reserve(
    spawner: Spawner,
) -> None:
    errors = await start_with_ever_more_descriptors(patient("auto"), spawner)
    assert len(errors) == PIPE_ENDS + DESCRIPTOR_RESERVE
    assert {exc.resource for exc in errors} == {"file descriptors"}
    # It needs the numbers of all ends of the pipes. Before it has them the kernel refuses, and says less.
    assert [exc.used is None for exc in errors] == [True] * PIPE_ENDS + [False] * DESCRIPTOR_RESERVE


@each_level
async def test_a_pidfd_whose_place_somebody_else_has_taken_fails_the_start_and_leaves_no_process(
    level: Level, spawner: Spawner, no_guard: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """F17, with the kernel's own EMFILE: other threads open things too, between the exec and the pidfd."""
    popen = subprocess.Popen
    with contextlib.ExitStack() as taken:

        def interrupted(*arguments: object, **options: object) -> object:
            process = popen(*arguments, **options)  # type: ignore[call-overload] # passed through
            taken.enter_context(only_free_descriptors(0))
            return process

        monkeypatch.setattr(subprocess, "Popen", interrupted)
        before = Resources.now().children
        with pytest.raises(CapacityError, match="no file descriptors are left"):
            await start(patient(level, "stubborn"), spawner=spawner)
    assert Resources.now().children == before


@each_level
async def test_a_child_is_stopped_without_a_single_descriptor_left(level: Level, each_watch: str) -> None:
    child = await start_ready(patient(level))
    with only_free_descriptors(0):
        status = await child.stop()
    assert status.code == 0
