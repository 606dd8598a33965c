"""What the Go supervisor that this project started from was tested for, and what its tests missed.

S1 to S11 are its own list (docs: `supervision.md`, 4.4). The bugs are those of its section 5; each
has its test where its subject is, and stands here with the name of that test, so that nobody has to
look for it. A bug that only a design can avoid, not a test, says so.
"""

import asyncio
import os
import runpy
import signal
import sys
from pathlib import Path

import pytest

import stdio_broker.supervisor as supervisor_package
from stdio_broker.supervisor import Config, ExitStatus, Phase, SpawnError, Supervisor, start
from tests.supervisor.children import command, start_ready
from tests.support.processes import children_of, is_alive

pytestmark = pytest.mark.both_loops

ENV = {"PYTHONPATH": str(Path(__file__).parents[2] / "src")}


def test_s1_an_empty_command_is_refused_before_anything_is_opened() -> None:
    with pytest.raises(ValueError, match="cmd: expected a list of a program and its arguments"):
        Config(cmd=[])


async def test_s2_a_missing_program_is_an_error_of_the_start() -> None:
    with pytest.raises(SpawnError, match="cannot start 'no-such-program': there is no such command"):
        await start(Config(cmd=["no-such-program"]))


async def test_s3_lines_go_to_the_child_and_come_back() -> None:
    child = await start_ready(Config(cmd=command("echo")))
    for line in (b'{"jsonrpc":"2.0"}', b"", "ü".encode()):
        await child.stdin.send(line)
        assert await child.stdout.receive() == line
    await child.stop()


async def test_s4_lines_of_stderr_are_collected() -> None:
    lines: list[str] = []
    child = await start(Config(cmd=command("say-bytes", 2, "one\\n", "two\\n"), on_stderr=lines.append))
    await child.wait()
    assert lines == ["one", "two"]


async def test_s5_a_friendly_child_stops_gracefully_at_sigterm() -> None:
    child = await start_ready(Config(cmd=command("deaf"), eof_grace=0))
    assert await child.stop() == ExitStatus(code=None, signal=signal.SIGTERM, phase=Phase.TERM)
    assert child.done.is_set()


async def test_s6_a_child_that_ignores_sigterm_is_killed_after_the_grace() -> None:
    child = await start_ready(Config(cmd=command("stubborn"), eof_grace=0, stop_grace=0.01))
    assert await child.stop() == ExitStatus(code=None, signal=signal.SIGKILL, phase=Phase.KILL)


async def test_s7_stop_may_be_called_again_and_again() -> None:
    child = await start_ready(Config(cmd=command("polite")))
    statuses = {
        await child.stop(),
        *await asyncio.gather(*(child.stop() for _ in range(10))),
        await child.stop(),
    }
    assert statuses == {ExitStatus(code=0, signal=None, phase=Phase.EOF)}


async def test_s8_a_clean_exit_is_no_error() -> None:
    child = await start(Config(cmd=command("leave", 0)))
    await child.done.wait()
    assert child.exit_err() is None


async def test_s9_a_non_zero_exit_is_an_error() -> None:
    child = await start(Config(cmd=command("leave", 3)))
    await child.done.wait()
    error = child.exit_err()
    assert error is not None
    assert (error.code, error.signal, str(error)) == (3, None, "the child exited with code 3")


async def test_s10_the_environment_can_be_overridden(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "UTC")
    child = await start(Config(cmd=command("environment"), env={"TZ": "CET", "MINE": "1"}))
    lines = [line async for line in child.stdout]
    await child.wait()
    assert {b"TZ=CET", b"MINE=1"} <= set(lines)


async def test_s11_many_sessions_leave_no_zombie() -> None:
    """Claimed, but not tested there."""
    async with Supervisor() as supervisor:
        children = await asyncio.gather(*(supervisor.start(Config(cmd=["cat"])) for _ in range(30)))
        pids = {child.pid for child in children}
        assert pids <= children_of(os.getpid())
    assert not children_of(os.getpid())
    assert not any(is_alive(pid) for pid in pids if pid is not None)


#: Each bug of the seed, and the tests that would find it here.
BUGS = {
    "1: the child's life is bound to its caller's": [
        "test_child::test_cancelling_who_started_a_child_leaves_it_alone",
    ],
    "2: the exit closes the pipes under their readers": [
        "test_child::test_output_that_nobody_has_read_survives_the_exit",
        "test_child::test_everything_written_before_an_exit_is_delivered_before_done",
    ],
    "3: done before stderr was drained": [
        "test_child::test_everything_written_before_an_exit_is_delivered_before_done",
        "test_pipes::test_the_end_comes_after_the_last_line_is_delivered",
    ],
    "4: SIGTERM together with EOF": [
        "test_child::test_a_polite_child_ends_by_eof_and_never_gets_a_signal",
    ],
    "5: only the direct child is signalled": [
        "test_child::test_the_child_of_a_wrapper_is_stopped_with_it",
        "test_child::test_what_a_wrapper_leaves_in_its_group_is_killed_when_it_ends_politely",
        "test_spawner::test_a_started_process_leads_a_session_and_has_our_pipes",
    ],
    "6: nothing for the end of the broker but EOF": [
        "test_process::test_a_program_that_ends_without_stopping_its_children_kills_them",
    ],
    "7: the wait after SIGKILL has no end": [
        "test_child_in_virtual_time::test_the_worst_case_is_the_sum_of_all_graces",
    ],
    "8: a second stop cannot hurry the first": [
        "test_child_in_virtual_time::test_a_later_caller_shortens_what_is_left_of_the_step",
        "test_child::test_many_callers_share_one_way_down_and_the_shortest_graces_win",
    ],
    "9: no exit yet looks like a clean exit": [
        "test_child::test_before_the_end_there_is_no_exit_status",
    ],
    "10: lines without a limit": [
        "test_child::test_stderr_without_a_newline_never_blocks_the_child",
        "test_child::test_output_above_the_limit_costs_one_line_and_bounded_memory",
    ],
    "11: the stderr callback is called inline": [
        "test_pipes::test_a_slow_callback_never_stops_the_reading_and_loses_the_oldest_lines",
        "test_pipes::test_a_callback_that_raises_is_logged_and_gets_the_next_line",
    ],
    "12: stdout is not drained while stopping": [
        "test_child::test_a_child_that_is_blocked_writing_can_end_by_eof_because_its_output_is_drained",
    ],
    "13: a failed start leaks pipes": [
        "test_spawner::test_each_descriptor_that_cannot_be_had_fails_the_start_and_leaks_none",
    ],
    "14: every child gets every secret": [
        "test_child::test_its_environment_is_what_the_configuration_says",
        "test_environment::test_overrides_win_and_none_unsets",
    ],
    "15: the pid outlives the process": [
        "test_child::test_the_pid_is_known_until_the_child_is_reaped_and_not_longer",
        "test_exit_watch::test_a_stranger_with_the_same_number_is_never_signalled",
    ],
    "16: SIGTERM without SIGCONT, and no way to say now": [
        "test_child::test_a_stopped_child_ends_by_sigterm_because_it_is_continued",
        "test_child::test_no_graces_at_all_kill_at_once",
        "test_config::test_a_grace_may_be_nothing",
    ],
    "17: what the callback gets is not what is documented": [
        "test_pipes::test_every_line_of_stderr_reaches_the_callback_in_order",
    ],
    "18: a write that is stuck keeps everybody": [
        "test_child::test_a_child_that_does_not_read_gets_its_eof_after_the_flush_grace",
        "test_pipes::test_closing_gives_the_child_eof_at_once_and_counts_what_it_drops",
        "test_pipes::test_many_senders_never_interleave_their_lines",
    ],
    # Restarts belong to the sessions: they know what may be repeated.
    "19: a supervisor without supervision": [],
    "20: what Go gave for free": [
        "test_exit_watch::test_a_stranger_with_the_same_number_is_never_signalled",
        "test_spawner::test_the_child_has_exactly_three_descriptors_whatever_we_have_open",
        "test_spawner::test_signals_that_we_block_are_not_blocked_in_the_child",
        "test_spawner::test_a_slow_exec_does_not_stall_the_event_loop_and_its_start_can_be_cancelled",
    ],
}


@pytest.mark.parametrize("bug", BUGS)
def test_the_test_of_each_bug_exists(bug: str) -> None:
    for name in BUGS[bug]:
        module, _, test = name.partition("::")
        assert f"def {test}(" in (Path(__file__).parent / f"{module}.py").read_text(), name


def test_it_is_usable_without_anything_of_the_web() -> None:
    """Design, 5: the library part."""
    code = "import sys, stdio_broker.supervisor; print(*{name.partition('.')[0] for name in sys.modules})"

    async def main() -> None:
        child = await start(Config(cmd=[sys.executable, "-c", code], env=ENV))
        loaded = set((await child.stdout.receive()).decode().split())
        assert "stdio_broker" in loaded
        assert not {"uvicorn", "starlette", "httptools", "click", "msgspec", "uvloop"} & loaded
        await child.wait()

    asyncio.run(main())


def test_windows_is_refused_with_a_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    package = supervisor_package.__file__
    assert package is not None
    monkeypatch.setattr(sys, "platform", "win32")
    with pytest.raises(ImportError, match=r"needs a POSIX system \(Linux, macOS\); Windows is not supported"):
        runpy.run_path(package)
