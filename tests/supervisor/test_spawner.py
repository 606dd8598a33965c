"""A start either gives a running process to its caller, or leaves nothing: no process, no descriptor.

The leak check of every test counts both.
"""

import asyncio
import contextlib
import errno
import gc
import logging
import os
import queue
import random
import resource
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from pathlib import Path

import pytest

from stdio_broker.supervisor import SpawnError
from stdio_broker.supervisor import descriptors as descriptors_module
from stdio_broker.supervisor import spawner as spawner_module
from stdio_broker.supervisor.containment import Uncontained
from stdio_broker.supervisor.spawner import Spawned, Spawner, default_spawner
from tests.supervisor.children import NO_SIGNALS, SIGNAL_MASKS, command
from tests.supervisor.limits import only_free_descriptors
from tests.support.processes import children_of, is_alive, wait_until, wait_until_sync

pytestmark = pytest.mark.both_loops

ENV = {"PATH": os.environ["PATH"]}


async def spawn(
    spawner: Spawner, *argv: str, env: dict[str, str] | None = None, cwd: str | None = None
) -> Spawned:
    return await spawner.spawn(argv, env=ENV if env is None else env, cwd=cwd)


@contextlib.asynccontextmanager
async def spawned(spawner: Spawner, *argv: str, cwd: str | None = None) -> AsyncIterator[Spawned]:
    result = await spawn(spawner, *argv, cwd=cwd)
    try:
        yield result
    finally:
        spawner.discard(result)


def output_of(child: Spawned) -> bytes:
    os.set_blocking(child.stdout, True)
    with os.fdopen(os.dup(child.stdout), "rb") as stdout:
        return stdout.read()


# What a start gives.


async def test_a_started_process_leads_a_session_and_has_our_pipes(spawner: Spawner) -> None:
    async with spawned(spawner, "cat") as child:
        assert os.getsid(child.pid) == os.getpgid(child.pid) == child.pid
        os.write(child.stdin, b"hello")
        await wait_until(lambda: _read(child.stdout) == b"hello")
        for fd in (child.stdin, child.stdout, child.stderr):
            assert not os.get_blocking(fd)
            assert not os.get_inheritable(fd)
        assert child.pidfd is not None
        assert not os.get_inheritable(child.pidfd)


def _read(fd: int) -> bytes:
    try:
        return os.read(fd, 100)
    except BlockingIOError:
        return b""


async def test_a_name_is_looked_up_on_the_childs_path_not_on_ours(spawner: Spawner, tmp_path: Path) -> None:
    (tmp_path / "only-there").symlink_to(shutil.which("cat") or "")
    spawner.discard(await spawn(spawner, "only-there", env={"PATH": str(tmp_path)}))
    with pytest.raises(SpawnError, match="no such command on the child's PATH"):
        await spawn(spawner, "only-there")


async def test_a_name_that_is_on_the_path_but_may_not_be_executed_is_explained(
    spawner: Spawner, tmp_path: Path
) -> None:
    (tmp_path / "text").write_text("hello")
    with pytest.raises(SpawnError, match="there is no such executable command on the child's PATH"):
        await spawn(spawner, "text", env={"PATH": str(tmp_path)})


async def test_a_relative_entry_of_the_path_means_the_childs_directory_as_for_any_program(
    spawner: Spawner, tmp_path: Path
) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "only-there").symlink_to(shutil.which("cat") or "")
    spawner.discard(await spawn(spawner, "only-there", env={"PATH": "bin"}, cwd=str(tmp_path)))


async def test_without_a_path_the_systems_own_is_searched(spawner: Spawner) -> None:
    spawner.discard(await spawn(spawner, "sh", env={}))
    with pytest.raises(SpawnError, match=rf"on the child's PATH \({os.defpath}\)"):
        await spawn(spawner, "no-such-command", env={})


async def test_the_child_has_exactly_three_descriptors_whatever_we_have_open(spawner: Spawner) -> None:
    """F32: uvloop ignores `close_fds`, so what a careless library left inheritable leaks into children."""
    careless, other_end = os.pipe()
    os.set_inheritable(careless, True)  # noqa: FBT003 - the function has no keyword
    try:
        children = await asyncio.gather(*(spawn(spawner, *command("descriptors")) for _ in range(8)))
        for child in children:
            assert output_of(child) == b"0 1 2\n"
            spawner.discard(child)
    finally:
        os.close(careless)
        os.close(other_end)


async def test_several_threads_start_children_without_giving_them_each_others_pipes() -> None:
    """F32."""
    spawners = [Spawner() for _ in range(4)]
    try:
        children = await asyncio.gather(
            *(spawn(spawner, *command("descriptors")) for spawner in spawners for _ in range(4))
        )
        for child in children:
            assert output_of(child) == b"0 1 2\n"
            spawners[0].discard(child)
    finally:
        for spawner in spawners:
            spawner.close()


def test_signals_that_we_block_are_not_blocked_in_the_child() -> None:
    """F31: a child inherits the mask of the thread that starts it, and SIGTERM could not stop it."""
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGUSR1})
    try:
        spawner = Spawner()  # its thread inherits our mask
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)

    async def main() -> bytes:
        async with spawned(spawner, *SIGNAL_MASKS) as child:
            return output_of(child)

    try:
        # Ignored are only those that this process was started with.
        assert asyncio.run(main()).decode().splitlines()[0] == NO_SIGNALS[0]
    finally:
        spawner.close()


async def _start_and_discard(spawner: Spawner) -> None:
    spawner.discard(await spawn(spawner, "cat"))


async def test_a_child_keeps_the_soft_limit_on_descriptors_that_we_had(
    spawner: Spawner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(descriptors_module, "_original", (123, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    async with spawned(spawner, *command("limits")) as child:
        os.write(child.stdin, b"x")
        assert output_of(child) == b"123\n"


# Why a start fails.


@pytest.fixture
def files(tmp_path: Path) -> Path:
    (tmp_path / "text").write_text("hello")
    (tmp_path / "not-executable").write_text("#!/bin/sh\n")
    (tmp_path / "no-magic").write_bytes(b"\x7fNOT-ELF")
    (tmp_path / "no-interpreter").write_text("#!/no/such/interpreter\n")
    for name in ("no-magic", "no-interpreter"):
        (tmp_path / name).chmod(0o755)
    return tmp_path


@pytest.mark.parametrize(
    ("program", "reason"),
    [
        ("no-such-command", "there is no such command on the child's PATH (/usr/bin:/bin)"),
        ("{files}/missing", "there is no such file, or the interpreter that it names is missing"),
        ("{files}/no-interpreter", "there is no such file, or the interpreter that it names is missing"),
        ("{files}/text/program", "a part of its path is no directory"),
        ("{files}/not-executable", "permission denied: is it executable?"),
        ("{files}", "permission denied: is it executable?"),
        ("{files}/no-magic", "it is neither a program nor a script that starts with #!"),
        ("{files}/" + "x" * 300, "File name too long"),
        ("ab\0cd", "embedded null byte"),
        ("\ud800", "'utf-8' codec can't encode character '\\ud800' in position 0: surrogates not allowed"),
    ],
)
async def test_a_start_that_fails_says_why_and_what_to_change(
    program: str, reason: str, files: Path, spawner: Spawner
) -> None:
    """F15, S2."""
    program = program.format(files=files)
    with pytest.raises(SpawnError) as caught:
        await spawn(spawner, program, env={"PATH": "/usr/bin:/bin"})
    assert str(caught.value) == f"cannot start {program!r}: {reason}"
    assert (caught.value.command, caught.value.reason) == (program, reason)
    assert caught.value.__cause__ is not None


@pytest.mark.parametrize(
    ("directory", "reason"),
    [("{files}/missing", "No such file or directory"), ("{files}/text", "Not a directory")],
)
async def test_a_bad_working_directory_is_not_mistaken_for_a_bad_program(
    directory: str, reason: str, files: Path, spawner: Spawner
) -> None:
    directory = directory.format(files=files)
    with pytest.raises(SpawnError) as caught:
        await spawn(spawner, "cat", cwd=directory)
    assert caught.value.reason == f"cannot enter the working directory {directory!r}: {reason}"


async def test_a_bad_program_is_not_mistaken_for_a_bad_working_directory(
    files: Path, spawner: Spawner
) -> None:
    with pytest.raises(SpawnError, match="permission denied: is it executable"):
        await spawn(spawner, str(files), cwd=str(files))


async def test_arguments_that_are_too_long_for_the_system_are_explained(spawner: Spawner) -> None:
    with pytest.raises(SpawnError, match="its arguments and environment are too long for the system"):
        await spawn(spawner, "cat", "x" * 3_000_000)


async def test_a_program_that_is_being_written_is_explained(spawner: Spawner, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copy(shutil.which("true") or "", copy)
    with copy.open("r+b"), pytest.raises(SpawnError, match="Text file busy"):
        await spawn(spawner, str(copy))


async def test_an_error_never_shows_arguments_or_the_environment(spawner: Spawner) -> None:
    with pytest.raises(SpawnError) as caught:
        await spawn(spawner, "no-such-command", "secret", env={"TOKEN": "secret", "PATH": "/bin"})
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("number", "reason"),
    [
        (errno.EAGAIN, "the system's limit on processes is reached"),
        (errno.ENFILE, "no file descriptors are left on this machine"),
        (errno.ENOMEM, "Cannot allocate memory"),
    ],
)
async def test_a_machine_that_is_full_is_explained(
    number: int, reason: str, spawner: Spawner, monkeypatch: pytest.MonkeyPatch
) -> None:
    """F18. Not done with RLIMIT_NPROC: root has no limit."""
    monkeypatch.setattr(subprocess, "Popen", _raises(OSError(number, os.strerror(number))))
    with pytest.raises(SpawnError, match=reason):
        await spawn(spawner, "cat")


@pytest.mark.parametrize("exc", [subprocess.SubprocessError("Exception in child"), MemoryError("full")])
async def test_an_error_that_nobody_foresaw_reaches_the_caller_and_the_thread_goes_on(
    exc: Exception, spawner: Spawner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subprocess, "Popen", _raises(exc))
    with pytest.raises(SpawnError, match=str(exc)):
        await spawn(spawner, "cat")
    monkeypatch.undo()
    await _start_and_discard(spawner)


def _raises(exc: BaseException) -> Callable[..., None]:
    def function(*_: object, **__: object) -> None:
        raise exc

    return function


async def test_each_descriptor_that_cannot_be_had_fails_the_start_and_leaks_none(
    spawner: Spawner, monkeypatch: pytest.MonkeyPatch
) -> None:
    """F16: six ends of pipes, two for the error of exec, then the pidfd where the error pipe was.

    The seed left pipes to the garbage collector, exactly when there are none left (its bug 13).
    """
    monkeypatch.setattr(spawner_module, "refuse_when_full", lambda *_: None)
    for free in range(8):
        with (
            only_free_descriptors(free),
            pytest.raises(SpawnError, match=r"no file descriptors are left; raise the limit \(ulimit -n\)"),
        ):
            await spawn(spawner, "cat")
    with only_free_descriptors(8):
        child = await spawn(spawner, "cat")
    spawner.discard(child)


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.ENOMEM])
async def test_a_pidfd_that_cannot_be_had_now_fails_the_start_and_leaves_no_process(
    number: int, spawner: Spawner, monkeypatch: pytest.MonkeyPatch
) -> None:
    """F17: asyncio's caller gets the error, and a child that nobody manages."""
    monkeypatch.setattr(os, "pidfd_open", _raises(OSError(number, os.strerror(number))))
    before = children_of(os.getpid())
    with pytest.raises(SpawnError):
        await spawn(spawner, *command("stubborn"))
    assert children_of(os.getpid()) == before


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.EPERM])
async def test_a_system_without_pidfds_starts_without_one(
    number: int, spawner: Spawner, monkeypatch: pytest.MonkeyPatch
) -> None:
    """F17: an old kernel, or a seccomp filter."""
    monkeypatch.setattr(os, "pidfd_open", _raises(OSError(number, os.strerror(number))))
    async with spawned(spawner, "cat") as child:
        assert child.pidfd is None


async def test_a_python_without_pidfds_starts_without_one(
    spawner: Spawner, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There are none on macOS."""
    monkeypatch.delattr(os, "pidfd_open")
    async with spawned(spawner, "cat") as child:
        assert child.pidfd is None


async def test_a_process_that_the_system_has_collected_already_is_explained_and_not_signalled(
    spawner: Spawner, monkeypatch: pytest.MonkeyPatch
) -> None:
    """F31: with SIGCHLD ignored, the number of a child that has ended may be a stranger's."""
    signalled: list[int] = []

    def pidfd_open(pid: int) -> int:
        os.waitpid(pid, 0)  # what the system would have done
        raise ProcessLookupError(errno.ESRCH, os.strerror(errno.ESRCH))

    monkeypatch.setattr(os, "pidfd_open", pidfd_open)
    monkeypatch.setattr(os, "killpg", lambda pid, _: signalled.append(pid))
    with pytest.raises(SpawnError, match="its exit status is lost because SIGCHLD is ignored"):
        await spawn(spawner, "true")
    assert signalled == []


async def test_descendants_that_outlive_a_cancelled_start_are_reported_and_do_not_keep_the_thread(
    spawner: Spawner, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Immortal(Uncontained):
        def alive(self) -> bool:
            return True

    monkeypatch.setattr(spawner_module, "DISCARD_TIMEOUT", 0.05)
    child = await spawner.spawn(["cat"], env=ENV, cwd=None, containment=Immortal())
    with caplog.at_level(logging.ERROR):
        spawner.discard(child)
        await _start_and_discard_quickly(spawner)
    assert caplog.messages == ["child.survivors"]


async def test_a_child_that_may_not_be_signalled_and_does_not_end_does_not_keep_the_thread(
    spawner: Spawner, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A set-uid child, or one in state D; it is collected when it ends at last."""
    monkeypatch.setattr(spawner_module, "DISCARD_TIMEOUT", 0.05)
    child = await spawn(spawner, "sleep", "60")
    monkeypatch.setattr(os, "killpg", _raises(PermissionError(errno.EPERM, "set-uid")))
    with caplog.at_level(logging.ERROR):
        spawner.discard(child)
        await _start_and_discard_quickly(spawner)
    assert "child.unkillable" in [record.getMessage() for record in caplog.records]
    assert is_alive(child.pid)
    monkeypatch.undo()
    os.kill(child.pid, signal.SIGKILL)
    await wait_until(lambda: child.pid not in children_of(os.getpid()))


async def test_what_somebody_else_has_collected_is_discarded_all_the_same(spawner: Spawner) -> None:
    """With SIGCHLD ignored, the system."""
    child = await spawn(spawner, "true")
    os.waitpid(child.pid, 0)
    spawner.discard(child)
    await _start_and_discard(spawner)


async def _start_and_discard_quickly(spawner: Spawner) -> None:
    child = await spawn(spawner, "true")
    await wait_until(lambda: not is_alive(child.pid))
    spawner.discard(child)


async def test_a_set_uid_child_of_a_failed_start_goes_with_its_pipes(
    spawner: Spawner, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It cannot be killed, but it sees EOF, so its pipes are closed before it is waited for."""
    monkeypatch.setattr(os, "pidfd_open", _raises(OSError(errno.EMFILE, "full")))
    monkeypatch.setattr(os, "killpg", _raises(PermissionError(errno.EPERM, "set-uid")))
    with pytest.raises(SpawnError):
        await spawn(spawner, "cat")
    assert caplog.records == []  # not "child.unkillable"


async def test_a_mistake_of_ours_does_not_end_the_thread(
    spawner: Spawner, caplog: pytest.LogCaptureFixture
) -> None:
    child = await spawn(spawner, "cat")
    with caplog.at_level(logging.ERROR):
        spawner.discard(Spawned(pid=child.pid, pidfd=None, stdin=1 << 20, stdout=-1, stderr=-1))
        await _start_and_discard(spawner)
    assert "spawner.failed" in [record.getMessage() for record in caplog.records]
    spawner.discard(child)


# Starts that nobody waits for any more.


@contextlib.contextmanager
def slow_program(tmp_path: Path, seconds: float) -> Iterator[tuple[str, Callable[[], bytes]]]:
    """Yield a program whose exec takes its time, and a function that waits until it is being started."""
    program = tmp_path / "slow"
    shutil.copy(shutil.which("cat") or "", program)
    holder = subprocess.Popen(command("hold-lease", program, seconds), stdout=subprocess.PIPE)
    assert holder.stdout is not None
    try:
        assert holder.stdout.readline() == b"ready\n"
        yield str(program), lambda: holder.stdout.readline() if holder.stdout else b""
    finally:
        holder.kill()
        holder.wait()
        holder.stdout.close()


# python/cpython#104372: before, the thread keeps the GIL until execve has succeeded.
needs_vfork_without_gil = pytest.mark.skipif(
    sys.version_info < (3, 11, 4), reason="Python before 3.11.4 stands still while it starts a process"
)


@needs_vfork_without_gil
async def test_a_slow_exec_does_not_stall_the_event_loop_and_its_start_can_be_cancelled(
    spawner: Spawner, tmp_path: Path
) -> None:
    """F15. In asyncio, uvloop and trio the loop stands still for as long as the file system takes."""
    with slow_program(tmp_path, 0.3) as (program, being_started):
        start = asyncio.ensure_future(spawn(spawner, program))
        await asyncio.to_thread(being_started)
        # The loop runs, though the thread is in the middle of it.
        for _ in range(100):
            await asyncio.sleep(0)
        assert not start.done()
        start.cancel()
        with pytest.raises(asyncio.CancelledError):
            await start
    await _start_and_discard(spawner)


async def test_a_slow_start_that_nobody_cancels_succeeds(spawner: Spawner, tmp_path: Path) -> None:
    with slow_program(tmp_path, 0.05) as (program, _):
        spawner.discard(await spawn(spawner, program))


async def test_a_start_that_is_cancelled_before_its_turn_starts_nothing(
    spawner: Spawner, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = threading.Event()
    argvs: list[Sequence[str]] = []
    popen = subprocess.Popen

    def counted(argv: Sequence[str], **options: object) -> object:
        argvs.append(argv)
        gate.wait(20)
        return popen(argv, **options)  # type: ignore[call-overload] # passed through

    monkeypatch.setattr(subprocess, "Popen", counted)
    first = asyncio.ensure_future(spawn(spawner, "cat"))
    second = asyncio.ensure_future(spawn(spawner, "cat", "second"))
    await wait_until(lambda: argvs != [])
    second.cancel()
    with pytest.raises(asyncio.CancelledError):
        await second
    gate.set()
    spawner.discard(await first)
    await _start_and_discard(spawner)
    assert argvs == [("cat",), ("cat",)]


async def test_a_start_that_is_cancelled_when_it_has_succeeded_leaves_no_process(spawner: Spawner) -> None:
    start = asyncio.ensure_future(spawn(spawner, *command("stubborn")))
    loop = asyncio.get_running_loop()
    # In the very turn in which the outcome arrives, before the task that waits for it runs.
    settled = asyncio.Event()

    def watch() -> None:
        if _outcome_is_there(start):
            start.cancel()
            settled.set()
        else:
            loop.call_soon(watch)

    loop.call_soon(watch)
    await settled.wait()
    with pytest.raises(asyncio.CancelledError):
        await start


def _outcome_is_there(start: "asyncio.Task[Spawned]") -> bool:
    waiter = getattr(start, "_fut_waiter", None)
    return waiter is None or waiter.done()


async def test_a_start_that_is_cancelled_at_any_moment_leaves_nothing(spawner: Spawner) -> None:
    """F20."""
    chance = random.Random(20)  # noqa: S311 - no secret, and the same moments every time
    for _ in range(150):
        start = asyncio.ensure_future(spawn(spawner, "cat"))
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(asyncio.shield(start), chance.uniform(0, 0.003))
        start.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            spawner.discard(await start)


async def test_many_starts_at_once_that_are_all_cancelled_leave_nothing(spawner: Spawner) -> None:
    starts = [asyncio.ensure_future(spawn(spawner, "cat")) for _ in range(50)]
    await starts[10]
    for start in starts:
        start.cancel()
    for outcome in await asyncio.gather(*starts, return_exceptions=True):
        if isinstance(outcome, Spawned):
            spawner.discard(outcome)


async def test_a_start_that_fails_and_is_cancelled_fails_quietly(spawner: Spawner) -> None:
    start = asyncio.ensure_future(spawn(spawner, "no-such-command"))
    await wait_until(lambda: _outcome_is_there(start))
    start.cancel()
    with contextlib.suppress(SpawnError, asyncio.CancelledError):
        await start


@needs_vfork_without_gil
def test_a_start_on_a_loop_that_is_closed_meanwhile_leaves_nothing(tmp_path: Path, spawner: Spawner) -> None:
    """F35: `asyncio.run` returns while the process is being started."""

    async def main() -> None:
        start = asyncio.ensure_future(spawn(spawner, program))
        await asyncio.to_thread(being_started)
        assert not start.done()

    with slow_program(tmp_path, 0.1) as (program, being_started):
        asyncio.run(main())


def test_a_start_whose_loop_is_closed_without_cancelling_it_leaves_nothing(
    tmp_path: Path, spawner: Spawner
) -> None:
    """F35: the coroutine is collected with the loop; then the process is nobody's."""
    loop = asyncio.new_event_loop()
    loop.set_exception_handler(lambda *_: None)  # it says that a pending task was destroyed
    with slow_program(tmp_path, 0.1) as (program, being_started):
        start = loop.create_task(spawn(spawner, program))
        loop.run_until_complete(asyncio.sleep(0))
        being_started()
        loop.close()
        del start
        asyncio.run(_start_and_discard(spawner))  # behind it, so it has been started now
    gc.collect()


@pytest.mark.parametrize("cancelled_first", [False, True])
def test_an_outcome_that_arrives_between_the_last_turn_of_the_loop_and_its_end_is_discarded(
    spawner: Spawner, *, cancelled_first: bool
) -> None:
    """A closed loop drops the calls it was given; so it is never given a process."""
    loop = asyncio.new_event_loop()
    loop.set_exception_handler(lambda *_: None)
    arrived = threading.Event()
    call_soon_threadsafe = loop.call_soon_threadsafe

    def arrives(*arguments: object) -> asyncio.Handle:
        handle = call_soon_threadsafe(*arguments)  # type: ignore[arg-type] # passed through
        arrived.set()
        return handle

    loop.call_soon_threadsafe = arrives  # type: ignore[method-assign, assignment] # the moment is ours
    start = loop.create_task(spawn(spawner, *command("stubborn")))
    loop.run_until_complete(asyncio.sleep(0))
    assert arrived.wait(20)
    if cancelled_first:
        start.cancel()
        with pytest.raises(asyncio.CancelledError):
            loop.run_until_complete(start)
    loop.close()
    del start
    gc.collect()


# The thread itself.


def test_closing_serves_what_is_queued_and_then_refuses() -> None:
    spawner = Spawner()

    async def main() -> None:
        child = await spawn(spawner, *command("stubborn"))
        spawner.discard(child)
        spawner.close()
        assert child.pid not in children_of(os.getpid())
        with pytest.raises(RuntimeError, match="the spawner is closed"):
            await spawn(spawner, "cat")

    asyncio.run(main())


def test_what_is_discarded_after_closing_is_ended_on_the_spot() -> None:
    spawner = Spawner()
    child = asyncio.run(spawn(spawner, *command("stubborn")))
    spawner.close()
    spawner.discard(child)
    assert child.pid not in children_of(os.getpid())


@needs_vfork_without_gil
def test_closing_does_not_wait_for_ever_for_a_slow_exec(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spawner_module, "DISCARD_TIMEOUT", 0.05)
    spawner = Spawner()

    async def main() -> None:
        start = asyncio.ensure_future(spawn(spawner, program))
        await asyncio.to_thread(being_started)
        start.cancel()
        spawner.close()
        assert _is_running(spawner)

    with slow_program(tmp_path, 0.3) as (program, being_started):
        asyncio.run(main())
        wait_until_sync(lambda: not _is_running(spawner))


def _is_running(spawner: Spawner) -> bool:
    return spawner._thread.is_alive()  # noqa: SLF001 - there is no other way to see it


def test_all_threads_of_a_process_share_one_default_spawner(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spawner_module, "_default", None)
    found: queue.SimpleQueue[Spawner] = queue.SimpleQueue()
    threads = [threading.Thread(target=lambda: found.put(default_spawner())) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    spawners = {found.get() for _ in threads}
    assert spawners == {default_spawner()}
    spawners.pop().close()
