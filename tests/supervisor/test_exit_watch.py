"""An exit is noticed once, the group is signalled without hitting a stranger, and reaping comes last."""

import asyncio
import errno
import os
import select
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest

from stdio_broker.supervisor import exit_watch
from stdio_broker.supervisor.exit_watch import ExitWatch, PidfdWatch, ThreadWatch, Waited
from tests.support.processes import is_alive, is_zombie, wait_until, wait_until_sync

pytestmark = pytest.mark.both_loops

SLEEP = ("sleep", "60")
WATCHES: tuple[type[PidfdWatch | ThreadWatch], ...] = (PidfdWatch, ThreadWatch)
each_kind = pytest.mark.parametrize("kind", WATCHES)


@contextmanager
def process(*argv: str, group: int = 0) -> Iterator[subprocess.Popen[bytes]]:
    """Run a program in a group, by default its own; end it whatever happens."""
    started = subprocess.Popen(argv, process_group=group)
    try:
        yield started
    finally:
        started.kill()
        started.wait()


class Watched:
    """A watch, and how often it has said that the process has exited."""

    def __init__(self, kind: type[PidfdWatch | ThreadWatch], pid: int) -> None:
        loop = asyncio.get_running_loop()
        self.exits = 0
        self.watch: ExitWatch
        if kind is PidfdWatch:
            self.watch = PidfdWatch(loop, pid, os.pidfd_open(pid), self._exited)
        else:
            self.watch = ThreadWatch(loop, pid, self._exited)

    def _exited(self) -> None:
        self.exits += 1

    async def exited(self) -> None:
        await wait_until(lambda: self.exits > 0, what="notice of the exit")


@contextmanager
def watched(kind: type[PidfdWatch | ThreadWatch], *argv: str) -> Iterator[tuple[Watched, int]]:
    with process(*argv) as started:
        subject = Watched(kind, started.pid)
        try:
            yield subject, started.pid
        finally:
            started.kill()
            subject.watch.close()


@each_kind
async def test_an_exit_is_noticed_once_and_the_number_stays_ours_until_it_is_reaped(
    kind: type[PidfdWatch | ThreadWatch],
) -> None:
    with watched(kind, *SLEEP) as (subject, pid):
        await asyncio.sleep(0)
        assert subject.exits == 0
        os.kill(pid, signal.SIGKILL)
        await subject.exited()
        for _ in range(5):
            await asyncio.sleep(0)
        assert subject.exits == 1
        assert is_zombie(pid)
        assert subject.watch.reap() == Waited(code=None, signal=signal.SIGKILL, core=False)
        assert not is_zombie(pid)


@each_kind
async def test_an_exit_before_the_watch_is_noticed_too(kind: type[PidfdWatch | ThreadWatch]) -> None:
    with process("true") as started:
        wait_until_sync(lambda: is_zombie(started.pid))
        subject = Watched(kind, started.pid)
        await subject.exited()
        assert subject.watch.reap() == Waited(code=0, signal=None, core=False)
        subject.watch.close()


@each_kind
@pytest.mark.parametrize("code", [0, 1, 127, 128, 143, 255])
async def test_an_exit_code_is_told_from_a_signal(kind: type[PidfdWatch | ThreadWatch], code: int) -> None:
    """Asyncio turns some into 255, and 128 + n may be either."""
    with watched(kind, "sh", "-c", f"exit {code}") as (subject, _):
        await subject.exited()
        assert subject.watch.reap() == Waited(code=code, signal=None, core=False)


@each_kind
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGSEGV, signal.SIGPIPE, signal.SIGRTMIN + 1])
async def test_a_fatal_signal_is_told_from_a_code(kind: type[PidfdWatch | ThreadWatch], number: int) -> None:
    with watched(kind, *SLEEP) as (subject, pid):
        os.kill(pid, number)
        await subject.exited()
        waited = subject.watch.reap()
        assert (waited.code, waited.signal) == (None, number)


async def test_a_core_dump_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether one is written is up to the machine, so the kernel's answer is made up here."""
    with process("true") as started:
        pidfd_subject = Watched(PidfdWatch, started.pid)
        thread_subject = Watched(ThreadWatch, started.pid)
        await pidfd_subject.exited()
        await thread_subject.exited()
        info = SimpleNamespace(si_code=os.CLD_DUMPED, si_status=signal.SIGABRT)
        monkeypatch.setattr(os, "waitid", lambda *_: info)
        monkeypatch.setattr(os, "waitpid", lambda pid, _: (pid, 0x80 | signal.SIGABRT))
        for subject in (pidfd_subject, thread_subject):
            assert subject.watch.reap() == Waited(code=None, signal=signal.SIGABRT, core=True)
        monkeypatch.undo()
        pidfd_subject.watch.close()


@each_kind
async def test_an_exit_that_somebody_else_collected_is_unknown(
    kind: type[PidfdWatch | ThreadWatch],
) -> None:
    """With SIGCHLD ignored it is the system. An exit code of 255 would be a lie."""
    with watched(kind, *SLEEP) as (subject, pid):
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        await subject.exited()
        assert subject.watch.reap() == Waited(code=None, signal=None, core=False)
        assert not subject.watch.signal_group(signal.SIGTERM)


async def test_a_thread_that_finds_the_exit_collected_signals_nobody_any_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The number may be a stranger's, though nobody here has reaped it."""
    signalled: list[tuple[int, int]] = []
    with process(*SLEEP) as started:
        with monkeypatch.context() as patch:
            patch.setattr(os, "waitid", _refuses(errno.ECHILD))
            subject = Watched(ThreadWatch, started.pid)
            await subject.exited()
        monkeypatch.setattr(os, "killpg", lambda *arguments: signalled.append(arguments))
        assert not subject.watch.signal_group(signal.SIGKILL)
        assert signalled == []


@each_kind
async def test_a_signal_reaches_the_whole_group(kind: type[PidfdWatch | ThreadWatch]) -> None:
    """The seed signalled only its direct child (its bug 5)."""
    with watched(kind, *SLEEP) as (subject, pid), process(*SLEEP, group=pid) as member:
        assert subject.watch.signal_group(signal.SIGTERM)
        await subject.exited()
        await wait_until(lambda: is_zombie(member.pid))


@each_kind
async def test_a_group_is_signalled_after_its_leader_has_exited(
    kind: type[PidfdWatch | ThreadWatch],
) -> None:
    with watched(kind, *SLEEP) as (subject, pid), process(*SLEEP, group=pid) as member:
        os.kill(pid, signal.SIGKILL)
        await subject.exited()
        assert is_alive(member.pid)
        assert subject.watch.signal_group(signal.SIGKILL)
        await wait_until(lambda: is_zombie(member.pid))


@each_kind
async def test_nobody_is_signalled_once_the_group_is_gone(kind: type[PidfdWatch | ThreadWatch]) -> None:
    with watched(kind, "true") as (subject, _):
        await subject.exited()
        subject.watch.reap()
        assert not subject.watch.signal_group(signal.SIGKILL)
        assert not subject.watch.group_alive(closely=False)


def _refuses(number: int) -> Callable[..., None]:
    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    return refuse


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOSYS, errno.EPERM])
async def test_without_group_signals_by_pidfd_the_number_is_used_until_it_is_reaped(
    number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Linux before 6.9 says EINVAL; a seccomp filter says what it likes."""
    monkeypatch.setattr(signal, "pidfd_send_signal", _refuses(number))
    signalled: list[tuple[int, int]] = []
    with watched(PidfdWatch, *SLEEP) as (subject, pid):
        assert subject.watch.signal_group(signal.SIGKILL)
        await subject.exited()
        subject.watch.reap()
        monkeypatch.setattr(os, "killpg", lambda *arguments: signalled.append(arguments))
        assert not subject.watch.signal_group(signal.SIGKILL)
        assert signalled == []
        monkeypatch.undo()
        assert pid


async def test_without_group_signals_by_pidfd_nobody_can_tell_whether_the_group_lives(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(signal, "pidfd_send_signal", _refuses(errno.EINVAL))
    with watched(PidfdWatch, "true") as (subject, _):
        await subject.exited()
        subject.watch.reap()
        assert not subject.watch.group_alive(closely=True)


@each_kind
async def test_a_number_that_is_nobodys_any_more_is_no_error(
    kind: type[PidfdWatch | ThreadWatch], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(signal, "pidfd_send_signal", _refuses(errno.EINVAL))
    monkeypatch.setattr(os, "killpg", _refuses(errno.ESRCH))
    with watched(kind, *SLEEP) as (subject, pid):
        assert not subject.watch.signal_group(signal.SIGTERM)
        os.kill(pid, signal.SIGKILL)
        await subject.exited()
        subject.watch.reap()


@each_kind
async def test_a_child_that_may_not_be_signalled_is_an_error_except_where_zombies_say_the_same(
    kind: type[PidfdWatch | ThreadWatch], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A set-uid child; on macOS a group of zombies as well."""
    with watched(kind, *SLEEP) as (subject, pid):
        monkeypatch.setattr(signal, "pidfd_send_signal", _refuses(errno.EPERM))
        monkeypatch.setattr(os, "killpg", _refuses(errno.EPERM))
        with pytest.raises(PermissionError):
            subject.watch.signal_group(signal.SIGTERM)
        monkeypatch.setattr(sys, "platform", "darwin")
        assert not subject.watch.signal_group(signal.SIGTERM)
        monkeypatch.undo()
        os.kill(pid, signal.SIGKILL)
        await subject.exited()
        subject.watch.reap()


async def test_a_group_lives_as_long_as_it_has_a_member_and_zombies_count_only_at_first_sight() -> None:
    """Where nobody collects orphans (a container without an init), zombies stay for ever."""
    with watched(PidfdWatch, *SLEEP) as (subject, pid), process(*SLEEP, group=pid) as member:
        os.kill(pid, signal.SIGKILL)
        await subject.exited()
        subject.watch.reap()
        assert subject.watch.group_alive(closely=False)
        assert subject.watch.group_alive(closely=True)
        member.kill()
        await wait_until(lambda: is_zombie(member.pid))
        assert subject.watch.group_alive(closely=False)
        assert not subject.watch.group_alive(closely=True)
        member.wait()
        assert not subject.watch.group_alive(closely=False)


async def test_a_member_that_may_not_be_signalled_is_alive(monkeypatch: pytest.MonkeyPatch) -> None:
    with watched(PidfdWatch, *SLEEP) as (subject, pid), process(*SLEEP, group=pid):
        os.kill(pid, signal.SIGKILL)
        await subject.exited()
        subject.watch.reap()
        monkeypatch.setattr(signal, "pidfd_send_signal", _refuses(errno.EPERM))
        assert subject.watch.group_alive(closely=True)
        monkeypatch.undo()


async def test_without_proc_the_kernel_is_believed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(exit_watch, "_PROC", tmp_path / "missing")
    with watched(PidfdWatch, *SLEEP) as (subject, _):
        assert subject.watch.group_alive(closely=True)


async def test_a_process_that_ends_while_it_is_looked_at_and_a_strange_name_are_no_obstacle(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(exit_watch, "_PROC", tmp_path)
    with watched(PidfdWatch, *SLEEP) as (subject, pid):
        for number, stat in {
            "1": b"1 (init) S 0 1 1 0",
            "2": b"2 (a) Z 1 %d) Z 1 %d 1 0" % (pid, pid),
            "meminfo": b"",
        }.items():
            (tmp_path / number).mkdir()
            (tmp_path / number / "stat").write_bytes(stat)
        (tmp_path / "3").mkdir()
        assert not subject.watch.group_alive(closely=True)
        (tmp_path / "3" / "stat").write_bytes(b"3 ()) (x) S) R 1 %d 1 0" % pid)
        assert subject.watch.group_alive(closely=True)


@pytest.mark.parametrize("stranger", ["process", "group"])
async def test_a_stranger_with_the_same_number_is_never_signalled(stranger: str) -> None:
    """Asyncio 3.13 kills it (python/cpython#127049); `killpg` with a number would, too."""
    if os.geteuid() != 0:
        pytest.skip("only root chooses the next pid")
    with watched(PidfdWatch, "true") as (subject, pid):
        await subject.exited()
        subject.watch.reap()
        recycled = _start_under(pid)
        try:
            assert recycled.pid == pid
            assert os.getpgid(recycled.pid) == pid
            if stranger == "group":
                with process(*SLEEP, group=pid) as member:
                    recycled.kill()
                    recycled.wait()
                    assert not subject.watch.signal_group(signal.SIGKILL)
                    assert not subject.watch.group_alive(closely=False)
                    assert is_alive(member.pid)
            else:
                assert not subject.watch.signal_group(signal.SIGKILL)
                assert not subject.watch.group_alive(closely=False)
                assert is_alive(recycled.pid)
        finally:
            recycled.kill()
            recycled.wait()


def _start_under(pid: int) -> subprocess.Popen[bytes]:
    for _ in range(500):
        Path("/proc/sys/kernel/ns_last_pid").write_text(str(pid - 1))
        started = subprocess.Popen(SLEEP, process_group=0)
        if started.pid == pid:
            return started
        started.kill()
        started.wait()
    pytest.skip(f"could not recycle pid {pid}: this machine starts too many processes")


def test_a_thread_whose_loop_is_closed_ends_quietly() -> None:
    """What the thread raised would fail this test."""
    with process(*SLEEP) as started:
        loop = asyncio.new_event_loop()
        watch = ThreadWatch(loop, started.pid, lambda: None)
        loop.close()
        os.kill(started.pid, signal.SIGKILL)
        watch.reap()


async def test_closing_twice_closes_once_and_what_was_given_away_stays_open() -> None:
    with process(*SLEEP) as started:
        pidfd = os.pidfd_open(started.pid)
        watch = PidfdWatch(asyncio.get_running_loop(), started.pid, pidfd, lambda: None)
        asyncio.get_running_loop().remove_reader(pidfd)
        assert watch.release() == pidfd
        watch.close()
        os.fstat(pidfd)
        second = PidfdWatch(asyncio.get_running_loop(), started.pid, pidfd, lambda: None)
        second.close()
        second.close()
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(pidfd)


class _Kqueue:
    """A kqueue that knows one event, told by a pidfd."""

    pids: list[int]
    closed = 0

    def control(self, changes: list[int], amount: int) -> list[int]:
        (pid,) = changes
        type(self).pids.append(pid)
        pidfd = os.pidfd_open(pid)
        select.select([pidfd], [], [])
        os.close(pidfd)
        return changes[:amount]

    def close(self) -> None:
        type(self).closed += 1


def test_macos_before_python_3_13_waits_with_a_kqueue(monkeypatch: pytest.MonkeyPatch) -> None:
    """There is no waitid there."""
    _Kqueue.pids, _Kqueue.closed = [], 0
    for name, value in {
        "kqueue": _Kqueue,
        "kevent": lambda pid, *_: pid,
        "KQ_FILTER_PROC": -5,
        "KQ_EV_ADD": 1,
        "KQ_NOTE_EXIT": 0x80000000,
    }.items():
        monkeypatch.setattr(select, name, value, raising=False)
    with process("true") as started:
        monkeypatch.setattr(sys, "platform", "darwin")
        monkeypatch.delattr(os, "waitid")
        assert exit_watch._wait_for_exit(started.pid)  # noqa: SLF001 - no other test runs on macOS
        assert is_zombie(started.pid)
        started.wait()
        # A process that is gone already is an error of the kqueue, and an exit to us.
        assert exit_watch._wait_for_exit(started.pid)  # noqa: SLF001 - as above
        monkeypatch.undo()
        assert _Kqueue.pids == [started.pid] * 2
        assert _Kqueue.closed == 2
