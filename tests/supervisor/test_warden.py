"""The warden: what ends the children of a program that is killed, and finds what escaped from them."""

import contextlib
import errno
import logging
import os
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from stdio_broker.supervisor import warden as warden_module
from stdio_broker.supervisor import warden_process
from stdio_broker.supervisor.warden import Lifeline, default_lifeline, new_key
from stdio_broker.supervisor.warden_process import MARK, Ward, Warden, kill_marked, marked
from tests.supervisor.children import command, new_tag
from tests.support.processes import find_tagged, is_alive, is_zombie, wait_until_sync

LONG = 300.0


@pytest.fixture
def run() -> Iterator[Callable[..., "subprocess.Popen[bytes]"]]:
    """Start the program with many ways to behave, as the leader of a group, and wait until it is ready."""
    processes: list[subprocess.Popen[bytes]] = []

    def start(*arguments: object, key: str = "", new_session: bool = True) -> "subprocess.Popen[bytes]":
        process = subprocess.Popen(
            command(*map(str, arguments)),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={MARK: key} if key else {},
            start_new_session=new_session,
        )
        processes.append(process)
        assert process.stdout is not None
        assert process.stdout.readline().startswith(b"ready")
        return process

    yield start
    for process in processes:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                pipe.close()


@pytest.fixture
def lifeline() -> Iterator[Lifeline]:
    """Return a lifeline with a warden of its own."""
    own = Lifeline()
    yield own
    own.close()


def watch(lifeline: Lifeline, key: str, *, eof_grace: float = LONG, stop_grace: float = LONG) -> bool:
    """Announce a child under a name that the test knows."""
    wish = warden_module._Wish(eof_grace, stop_grace, "kill", "")  # noqa: SLF001 - else the name is random
    with lifeline._lock:  # noqa: SLF001 - as above
        announced = lifeline._watch(key, wish)  # noqa: SLF001 - as above
        lifeline._flush()  # noqa: SLF001 - as above
    return announced


def watch_process(lifeline: Lifeline, key: str, process: "subprocess.Popen[bytes]") -> None:
    """Announce a process and hand it over, without keeping its pidfd."""
    assert watch(lifeline, key, eof_grace=0, stop_grace=0)
    pidfd = os.pidfd_open(process.pid)
    lifeline.started(key, process.pid, pidfd)
    lifeline.forget(key, altogether=False)
    os.close(pidfd)


# Marks.


def test_the_processes_of_a_child_are_found_by_their_mark(
    run: Callable[..., "subprocess.Popen[bytes]"],
) -> None:
    key, other = new_key(), new_key()
    ours, nested, theirs = run("deaf", key=key), run("deaf", key=f"{key},{new_key()}"), run("deaf", key=other)
    run("deaf")
    assert set(marked({key})) == {(ours.pid, key), (nested.pid, key)}
    assert set(marked({key, other})) == {(ours.pid, key), (nested.pid, key), (theirs.pid, other)}
    assert not list(marked(()))


def test_where_no_environment_can_be_read_nothing_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "1").mkdir()  # it has ended between two looks
    (tmp_path / "2" / "environ").mkdir(parents=True)  # it cannot be read
    monkeypatch.setattr(warden_process, "PROC", tmp_path)
    assert not list(marked({"key"}))
    monkeypatch.setattr(warden_process, "PROC", tmp_path / "missing")
    assert not list(marked({"key"}))


def test_what_is_marked_is_killed_and_counted(run: Callable[..., "subprocess.Popen[bytes]"]) -> None:
    key, other = new_key(), new_key()
    stubborn = [run("stubborn", key=key) for _ in range(2)]
    spared = run("stubborn", key=other)
    assert kill_marked({key, "nobody"}) == {key: 2, "nobody": 0}
    assert [process.wait() for process in stubborn] == [-signal.SIGKILL] * 2
    assert kill_marked({key}) == {key: 0}, "the dead must not count"
    assert spared.poll() is None


def test_a_number_that_became_a_strangers_between_two_looks_is_not_signalled(
    run: Callable[..., "subprocess.Popen[bytes]"], monkeypatch: pytest.MonkeyPatch
) -> None:
    stranger = run("deaf")
    monkeypatch.setattr(warden_process, "marked", lambda keys: [(stranger.pid, key) for key in keys])
    assert kill_marked({"key"}) == {"key": 0}
    assert stranger.poll() is None


def test_a_process_that_vanishes_before_its_pidfd_can_be_had_does_not_count(
    run: Callable[..., "subprocess.Popen[bytes]"], monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = run("deaf")
    gone.kill()
    gone.wait()
    monkeypatch.setattr(warden_process, "marked", lambda keys: [(gone.pid, key) for key in keys])
    assert kill_marked({"key"}) == {"key": 0}


def test_one_that_may_not_be_signalled_counts(
    run: Callable[..., "subprocess.Popen[bytes]"], monkeypatch: pytest.MonkeyPatch
) -> None:
    run("deaf", key="key")
    monkeypatch.setattr(signal, "pidfd_send_signal", _refuse(errno.EPERM))
    assert kill_marked({"key"}) == {"key": 1}


def test_without_pidfds_nothing_is_hunted(
    run: Callable[..., "subprocess.Popen[bytes]"], monkeypatch: pytest.MonkeyPatch
) -> None:
    """By number a stranger could be hit."""
    process = run("deaf", key="key")
    monkeypatch.delattr(os, "pidfd_open")
    assert kill_marked({"key"}) == {"key": 0}
    assert process.poll() is None


def _refuse(code: int) -> Callable[..., None]:
    def refuse(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    return refuse


def test_a_process_that_ends_while_it_is_looked_at_is_gone(tmp_path: Path) -> None:
    (tmp_path / "stat").mkdir()  # it can be opened, and not be read
    folder = os.open(tmp_path, os.O_RDONLY)
    assert warden_process._state(folder) == ""  # noqa: SLF001
    os.close(folder)


# A ward.


@pytest.fixture(params=["pidfd", "proc", "number"])
def ward(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Ward]:
    """Return a ward without a process yet, on a system with pidfds, with /proc only, or with neither."""
    if request.param == "number":
        monkeypatch.setattr(warden_process, "PROC", Path("/nowhere"))
    own = Ward(request.param, 0.0, 0.0, "kill")
    yield own
    own.close()


def give(ward: Ward, process: "subprocess.Popen[bytes]") -> None:
    ward.started(process.pid, os.pidfd_open(process.pid) if ward.key == "pidfd" else None)


def test_a_ward_is_known_to_run_until_it_has_exited(
    ward: Ward, run: Callable[..., "subprocess.Popen[bytes]"]
) -> None:
    assert Ward("k", 0.0, 0.0, "kill").look(), "it was announced, and never started"
    process = run("stubborn")
    give(ward, process)
    assert not ward.look()
    ward.sweep()
    process.wait()
    assert ward.look()
    assert ward.look()
    assert str(ward) == f"pid {process.pid}"
    ward.signal(signal.SIGKILL)  # nobody is left, which is no error


def test_a_wards_group_is_signalled(ward: Ward, run: Callable[..., "subprocess.Popen[bytes]"]) -> None:
    tag = new_tag()
    process = run("wrapper", tag, "stubborn")
    give(ward, process)
    ward.signal(signal.SIGKILL)
    process.wait()
    wait_until_sync(lambda: not find_tagged(tag))


@pytest.mark.parametrize("code", [errno.EINVAL, errno.EPERM])
def test_where_pidfds_reach_no_group_the_number_is_used_while_it_is_pinned(
    code: int, run: Callable[..., "subprocess.Popen[bytes]"], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Linux before 6.9; or a filter."""
    monkeypatch.setattr(signal, "pidfd_send_signal", _refuse(code))
    process = run("stubborn")
    ward = Ward("k", 0.0, 0.0, "kill")
    ward.started(process.pid, os.pidfd_open(process.pid))
    killed: list[int] = []
    with monkeypatch.context() as patch:
        patch.setattr(os, "killpg", lambda pgid, _: killed.append(pgid))
        ward.signal(signal.SIGTERM)
    assert killed == [process.pid]
    ward.signal(signal.SIGKILL)
    process.wait()
    with monkeypatch.context() as patch:
        patch.setattr(os, "killpg", lambda pgid, _: killed.append(pgid))
        ward.signal(signal.SIGKILL)
    assert killed == [process.pid], "the number may be a stranger's"
    ward.close()


def test_what_a_ward_leaves_is_spared_if_it_may_be_left(
    run: Callable[..., "subprocess.Popen[bytes]"],
) -> None:
    tag = new_tag()
    process = run("leaving-wrapper", tag)
    ward = Ward("k", 0.0, 0.0, "leave")
    ward.started(process.pid, os.pidfd_open(process.pid))
    assert process.stdin is not None
    process.stdin.close()
    process.wait()
    assert ward.look()
    ward.sweep()
    assert ward.empty()
    (left,) = find_tagged(tag)
    ward.close()
    assert is_alive(left)
    os.kill(left, signal.SIGKILL)
    wait_until_sync(lambda: not find_tagged(tag))


def test_a_control_group_is_killed_and_removed_once_it_is_empty(tmp_path: Path) -> None:
    group = tmp_path / "group"
    group.mkdir()
    ward = Ward("k", 0.0, 0.0, "kill")
    ward.started(0, None, str(group))
    ward.sweep()
    assert (group / "cgroup.kill").read_text() == "1"
    assert not ward.empty()
    (group / "cgroup.kill").unlink()
    assert ward.empty()
    assert ward.empty(), "whoever else has removed it"
    assert not group.exists()
    ward.sweep()  # it is gone, which is no error


# The warden, in this process.


class Connection:
    """The broker's side of a warden that is served by the test itself."""

    def __init__(self) -> None:
        self.ours, self.theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.warden = Warden(self.theirs, None)

    def send(self, *fields: object, pidfd: int | None = None) -> None:
        packet = "\0".join(map(str, fields)).encode() + b"\n"
        socket.send_fds(self.ours, [packet], [] if pidfd is None else [pidfd])

    def watch(
        self,
        process: "subprocess.Popen[bytes] | None",
        key: str,
        *,
        eof_grace: float = 0.0,
        stop_grace: float = 0.0,
        orphans: str = "kill",
        folder: str = "",
    ) -> None:
        self.send("watch", key, eof_grace, stop_grace, orphans, folder)
        if process is not None:
            pidfd = os.pidfd_open(process.pid)
            self.send("started", key, process.pid, "", pidfd=pidfd)
            os.close(pidfd)

    def die(self) -> list[str]:
        """Close our side, as the end of a broker does; return what the warden could not end."""
        self.ours.close()
        self.warden.serve()
        return self.warden.end_all()


@pytest.fixture
def connection() -> Iterator[Connection]:
    own = Connection()
    yield own
    own.ours.close()
    own.theirs.close()


def test_after_the_brokers_death_every_child_is_ended_each_after_its_own_graces(
    connection: Connection, run: Callable[..., "subprocess.Popen[bytes]"]
) -> None:
    polite, graceful, stubborn = run("polite"), run("graceful"), run("stubborn")
    connection.watch(polite, "a", eof_grace=LONG)
    connection.watch(graceful, "b", stop_grace=LONG)
    connection.watch(stubborn, "c", stop_grace=0.05)
    assert polite.stdin is not None
    polite.stdin.close()
    assert connection.die() == []
    assert [polite.wait(), graceful.wait(), stubborn.wait()] == [0, 7, -signal.SIGKILL]


def test_a_stopped_child_gets_its_sigterm_because_it_is_continued(
    connection: Connection, run: Callable[..., "subprocess.Popen[bytes]"]
) -> None:
    """F2."""
    stopped = run("graceful")
    stopped.send_signal(signal.SIGSTOP)
    connection.watch(stopped, "a", stop_grace=LONG)
    assert connection.die() == []
    assert stopped.wait() == 7


def test_what_a_child_left_in_its_group_and_outside_of_it_is_ended_with_it(
    connection: Connection, run: Callable[..., "subprocess.Popen[bytes]"]
) -> None:
    """F5, F6, of a broker that was killed."""
    inside, outside = new_tag(), new_tag()
    wrappers = [run("leaving-wrapper", inside, key="in"), run("escaping-wrapper", outside, key="out")]
    for wrapper, key in zip(wrappers, ["in", "out"], strict=True):
        connection.watch(wrapper, key, eof_grace=LONG)
        assert wrapper.stdin is not None
        wrapper.stdin.close()
    assert connection.die() == []
    wait_until_sync(lambda: not find_tagged(inside) and not find_tagged(outside))


def test_a_child_that_was_announced_and_not_yet_handed_over_is_found_by_its_mark(
    connection: Connection, run: Callable[..., "subprocess.Popen[bytes]"]
) -> None:
    """F11: the broker was killed in the moment between the start of a child and the message about it."""
    child = run("stubborn", key="a")
    connection.watch(None, "a", eof_grace=LONG)
    assert connection.die() == []
    assert child.wait() == -signal.SIGKILL


def test_a_child_that_was_taken_back_is_left_alone(
    connection: Connection, run: Callable[..., "subprocess.Popen[bytes]"]
) -> None:
    child = run("stubborn", key="a")
    connection.watch(child, "a")
    connection.send("forget", "a")
    assert connection.die() == []
    assert child.poll() is None


def test_orphans_that_may_be_left_are_left(
    connection: Connection, run: Callable[..., "subprocess.Popen[bytes]"]
) -> None:
    tag = new_tag()
    wrapper = run("escaping-wrapper", tag, key="a")
    connection.watch(wrapper, "a", orphans="leave")
    assert connection.die() == []
    assert wrapper.wait() == -signal.SIGTERM
    (left,) = find_tagged(tag)
    os.kill(left, signal.SIGKILL)
    wait_until_sync(lambda: not find_tagged(tag))


def test_what_cannot_be_ended_is_reported_and_does_not_keep_the_warden(
    connection: Connection,
    run: Callable[..., "subprocess.Popen[bytes]"],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """F13."""
    monkeypatch.setattr(warden_process, "KILL_GRACE", 0.05)
    monkeypatch.setattr(signal, "pidfd_send_signal", _refuse(errno.EPERM))
    monkeypatch.setattr(os, "killpg", _refuse(errno.EPERM))
    child, unknown = run("stubborn"), run("stubborn", key="b")
    connection.watch(child, "a")
    connection.watch(None, "b")
    assert connection.die() == [f"pid {child.pid}", "the child marked b"]
    assert unknown.poll() is None


def test_without_pidfds_the_exits_are_looked_for(
    connection: Connection, run: Callable[..., "subprocess.Popen[bytes]"]
) -> None:
    child = run("graceful")
    connection.send("watch", "a", 0.0, LONG, "kill", "")
    connection.send("started", "a", child.pid, "")
    assert connection.die() == []
    assert child.wait() == 7


def test_the_folder_of_the_control_groups_is_removed_at_last(connection: Connection, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    (folder / "a").mkdir(parents=True)
    kept = tmp_path / "kept"
    kept.mkdir()
    # Here the files of a group are files indeed; the kernel's go with their folder.
    (folder / "cgroup.kill").mkdir()
    connection.watch(None, "a", folder=str(folder))
    connection.watch(None, "b", folder=str(kept))
    assert connection.die() == []
    assert not folder.exists()
    assert (kept / "cgroup.kill").read_text() == "1", "whoever was put into a group, and not handed over"


def test_hunts_are_answered_with_what_they_found(
    connection: Connection, run: Callable[..., "subprocess.Popen[bytes]"]
) -> None:
    child = run("stubborn", key="a")
    connection.watch(child, "a")
    connection.send("hunt", "a", 1)
    connection.send("hunt", "a", 2)
    connection.send("hunt", "b", 1)
    connection.ours.shutdown(socket.SHUT_WR)
    connection.warden.serve()
    assert child.wait() == -signal.SIGKILL
    answers = {connection.ours.recv(100), connection.ours.recv(100)}
    assert answers == {b"a 2 1\n", b"b 1 0\n"}
    assert connection.warden.end_all() == []


def test_a_broker_that_does_not_take_its_answers_does_not_stop_the_warden(connection: Connection) -> None:
    connection.theirs.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
    with contextlib.suppress(BlockingIOError):
        while True:
            connection.theirs.send(b"x")
    connection.send("hunt", "a", 1)
    assert connection.die() == []


def test_the_brokers_end_is_seen_where_a_copy_of_it_holds_the_lifeline_open(
    run: Callable[..., "subprocess.Popen[bytes]"],
) -> None:
    """F36. What it said at last counts all the same."""
    broker, child = run("stubborn"), run("stubborn")
    connection = Connection()
    pidfd = os.pidfd_open(broker.pid)
    warden = Warden(connection.theirs, pidfd)
    connection.watch(child, "a")
    broker.kill()
    warden.serve()
    assert warden.end_all() == []
    assert child.wait() == -signal.SIGKILL
    os.close(pidfd)
    connection.ours.close()
    connection.theirs.close()


def test_what_nobody_can_use_is_closed(connection: Connection) -> None:
    connection.send("started", "nobody", 1, "", pidfd=0)
    connection.send("forget", "nobody")
    assert connection.die() == []


def test_a_lifeline_that_breaks_is_at_its_end(
    connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(socket, "recv_fds", _refuse(errno.ECONNRESET))
    assert connection.die() == []


def test_a_message_that_is_announced_and_not_there_is_not_the_end(
    connection: Connection, run: Callable[..., "subprocess.Popen[bytes]"], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever takes that for the broker's death ends its children."""
    receive, refused = socket.recv_fds, iter([True])

    def recv_fds(*arguments: int) -> object:
        if next(refused, False):
            raise BlockingIOError
        return receive(*arguments)  # type: ignore[arg-type] # passed through

    monkeypatch.setattr(socket, "recv_fds", recv_fds)
    child = run("stubborn")
    connection.watch(child, "a")
    connection.send("forget", "a")
    assert connection.die() == []
    assert child.poll() is None


@pytest.mark.parametrize("of_ours", [True, False])
def test_the_program_serves_the_process_that_started_it(
    of_ours: bool,  # noqa: FBT001
    run: Callable[..., "subprocess.Popen[bytes]"],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """One whose parent has died meanwhile must not wait for whoever has its number now."""
    handlers = {number: signal.getsignal(number) for number in signal.valid_signals()}
    monkeypatch.setattr(warden_process, "KILL_GRACE", 0.05)
    monkeypatch.setattr(os, "killpg", _refuse(errno.EPERM))
    monkeypatch.setattr(signal, "pidfd_send_signal", _refuse(errno.EPERM))
    child = run("deaf")
    connection = Connection()
    connection.watch(child, "a")
    connection.ours.close()
    try:
        warden_process.main(connection.theirs.detach(), os.getppid() if of_ours else 1)
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN
    finally:
        for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM, signal.SIGPIPE):
            signal.signal(number, handlers[number])
    assert capsys.readouterr().err == (
        f"stdio-broker: could not end, after the broker's death: pid {child.pid}\n"
    )


def test_a_program_with_nothing_to_end_ends_in_silence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    monkeypatch.delattr(os, "pidfd_open")
    connection = Connection()
    connection.ours.close()
    warden_process.main(connection.theirs.detach(), os.getppid())
    assert capsys.readouterr().err == ""


# Our side of it.


def test_the_warden_starts_with_the_first_child_and_ends_with_the_lifeline() -> None:
    lifeline = Lifeline()
    pids = [lifeline.pid]
    assert watch(lifeline, "a")
    pids.append(lifeline.pid)
    assert watch(lifeline, "b")
    pids.append(lifeline.pid)
    none, pid, again = pids
    assert none is None
    assert pid is not None
    assert again == pid
    assert is_alive(pid)
    lifeline.close()
    wait_until_sync(lambda: not is_alive(pid) and not is_zombie(pid))
    assert not watch(lifeline, "c")
    lifeline.close()


def announce(lifeline: Lifeline, *, eof_grace: float = LONG) -> str:
    return lifeline.announce(eof_grace=eof_grace, stop_grace=0, orphans="kill", folder="")


def sent(lifeline: Lifeline, monkeypatch: pytest.MonkeyPatch) -> list[list[bytes]]:
    """Return a list of what is sent from now on, by message."""
    messages: list[list[bytes]] = []

    class Socket:
        def sendmsg(self, packets: list[bytes], *_: object) -> None:
            messages.append([packet.split(b"\0")[0] for packet in packets])

    monkeypatch.setattr(lifeline, "_connection", Socket())
    return messages


def test_a_start_costs_one_message(lifeline: Lifeline, monkeypatch: pytest.MonkeyPatch) -> None:
    """It wakes the warden, which costs more than what it is told."""
    with monkeypatch.context() as patch:
        assert announce(lifeline)
        messages = sent(lifeline, patch)
        for _ in range(3):
            key = announce(lifeline)
            lifeline.started(key, os.getpid(), None)
            lifeline.forget(key)
    # The first of all has been announced alone; behind it waits the announcement of the next one.
    assert messages == [
        [b"watch"],
        [b"watch", b"started"],
        [b"forget", b"watch", b"started"],
        [b"forget", b"watch", b"started"],
    ]


def test_a_name_is_announced_before_anybody_bears_it(
    lifeline: Lifeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also if the start that should have announced it has failed."""
    with monkeypatch.context() as patch:
        announce(lifeline)
        messages = sent(lifeline, patch)
        announce(lifeline)
        announce(lifeline, eof_grace=1.0)
    assert messages == [[b"watch"], [b"watch", b"watch"]]


def test_names_are_kept_for_a_few_configurations(
    lifeline: Lifeline, caplog: pytest.LogCaptureFixture
) -> None:
    names = {announce(lifeline, eof_grace=number) for number in range(100)}
    assert len(names) == 100
    assert len(lifeline._spare) == warden_module.SPARE_NAMES  # noqa: SLF001 - nothing else shows it
    assert len(lifeline._wards) == 100 + warden_module.SPARE_NAMES  # noqa: SLF001 - as above
    assert lifeline.pid is not None
    os.kill(lifeline.pid, signal.SIGKILL)
    wait_until_sync(lambda: "warden.died" in caplog.messages)
    died = next(record for record in caplog.records if record.message == "warden.died")
    assert died.__dict__["children"] == 100


def test_many_ends_without_a_start_are_told_all_the_same(
    lifeline: Lifeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = [announce(lifeline) for _ in range(warden_module.TOGETHER + 2)]
    with monkeypatch.context() as patch:
        messages = sent(lifeline, patch)
        for key in keys:
            lifeline.forget(key)
    (message, rest) = messages
    assert message == [b"watch"] + [b"forget"] * (warden_module.TOGETHER - 1)
    assert rest == [b"forget"]


def test_without_a_warden_a_child_has_a_name_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """By which its control group is named."""
    monkeypatch.setattr(sys, "executable", "")
    lifeline = Lifeline()
    names = {announce(lifeline), announce(lifeline)}
    assert len(names) == 2
    for name in names:
        lifeline.started(name, 1, None)
        lifeline.forget(name)


def test_a_new_warden_is_not_told_of_a_child_that_was_taken_back_meanwhile(lifeline: Lifeline) -> None:
    """Ours: another thread may take a child back while a new warden is told of all of them."""
    assert watch(lifeline, "a")
    lifeline.forget("a")
    lifeline._tell_again("a")  # noqa: SLF001 - as its thread does, a moment too late
    assert watch(lifeline, "a"), "the warden knows it no more, so it can be watched anew"


def test_closing_a_lifeline_that_was_never_used_does_nothing() -> None:
    Lifeline().close()


def test_the_warden_has_no_secret_of_ours_and_no_descriptor_but_its_lifeline(
    lifeline: Lifeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("A_SECRET", "hidden")
    monkeypatch.setenv(MARK, "outer")
    assert watch(lifeline, "a")
    lifeline.hunt("a")
    wait_until_sync(lambda: lifeline.found("a") == 0)  # it is up
    assert b"hidden" not in Path(f"/proc/{lifeline.pid}/environ").read_bytes()
    assert f"{MARK}=outer".encode() in Path(f"/proc/{lifeline.pid}/environ").read_bytes()
    links = [link for link in Path(f"/proc/{lifeline.pid}/fd").iterdir() if int(link.name) > 2]
    assert sorted(str(link.readlink()).split(":")[0] for link in links) == [
        "anon_inode",
        "socket",
    ]


def test_a_hunt_ends_what_is_marked(
    lifeline: Lifeline, run: Callable[..., "subprocess.Popen[bytes]"]
) -> None:
    child = run("stubborn", key="a")
    assert lifeline.found("a") == 0, "nobody was looked for"
    lifeline.hunt("a")
    assert lifeline.found("a") == 0, "nobody of that name is known"
    assert watch(lifeline, "a")
    lifeline.hunt("a")
    wait_until_sync(lambda: lifeline.found("a") is not None)
    assert lifeline.found("a") == 1
    assert child.wait() == -signal.SIGKILL
    lifeline.hunt("a")
    assert lifeline.found("a") is None
    wait_until_sync(lambda: lifeline.found("a") == 0)
    lifeline.forget("a")
    lifeline.forget("a")


def test_an_answer_of_an_earlier_round_does_not_count(lifeline: Lifeline) -> None:
    assert watch(lifeline, "a")
    lifeline._hunts["a"] = (2, None)  # noqa: SLF001 - as if it had been asked twice
    lifeline._note("a", "1", "0")  # noqa: SLF001 - as if it answered the first
    assert lifeline.found("a") is None
    lifeline._note("a", "2", "3")  # noqa: SLF001
    assert lifeline.found("a") == 3


def test_closing_ends_what_was_not_taken_back(
    lifeline: Lifeline, run: Callable[..., "subprocess.Popen[bytes]"]
) -> None:
    left, taken = run("stubborn"), run("stubborn")
    watch_process(lifeline, "a", left)
    assert watch(lifeline, "b", eof_grace=0, stop_grace=0)
    pidfd = os.pidfd_open(taken.pid)
    lifeline.started("b", taken.pid, pidfd)
    lifeline.forget("b")
    os.close(pidfd)
    lifeline.close()
    assert left.wait() == -signal.SIGKILL
    assert taken.poll() is None


def test_a_child_that_nobody_announced_is_not_handed_over(lifeline: Lifeline) -> None:
    lifeline.started("nobody", 1, None)
    assert lifeline.pid is None


def test_a_warden_that_dies_is_replaced_and_told_everything_again(
    lifeline: Lifeline,
    run: Callable[..., "subprocess.Popen[bytes]"],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """F10."""
    child, escaped = run("stubborn"), run("stubborn", key="b")
    assert watch(lifeline, "a", eof_grace=0, stop_grace=0)
    pidfd = os.pidfd_open(child.pid)
    lifeline.started("a", child.pid, pidfd)
    assert watch(lifeline, "b", eof_grace=0, stop_grace=0)
    first = lifeline.pid
    assert first is not None
    os.kill(first, signal.SIGSTOP)
    lifeline.hunt("b")  # unanswered
    os.kill(first, signal.SIGKILL)
    wait_until_sync(lambda: lifeline.pid not in {None, first})
    wait_until_sync(lambda: lifeline.found("b") == 1)
    assert escaped.wait() == -signal.SIGKILL
    assert "warden.died" in caplog.messages
    lifeline.close()
    assert child.wait() == -signal.SIGKILL
    os.close(pidfd)


def test_a_warden_that_keeps_dying_is_given_up_and_that_is_said(
    lifeline: Lifeline, caplog: pytest.LogCaptureFixture
) -> None:
    assert watch(lifeline, "a")
    for _ in range(warden_module.DEATHS.max_restarts + 1):
        wait_until_sync(lambda: lifeline.pid is not None)
        pid = lifeline.pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        wait_until_sync(lambda pid=pid: lifeline.pid != pid)  # type: ignore[misc]
    wait_until_sync(lambda: "warden.lost" in caplog.messages)
    assert lifeline.pid is None
    assert not watch(lifeline, "b")
    lifeline.hunt("a")
    assert lifeline.found("a") == 0, "nobody may wait for a hunt that will not come"
    lifeline.forget("a")


def test_a_warden_that_cannot_be_replaced_is_given_up_and_that_is_said(
    lifeline: Lifeline, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    assert watch(lifeline, "a")
    lifeline.hunt("a")
    monkeypatch.setattr(warden_module, "_start_process", _refuse(errno.EMFILE))
    assert lifeline.pid is not None
    os.kill(lifeline.pid, signal.SIGKILL)
    wait_until_sync(lambda: "warden.lost" in caplog.messages)
    assert lifeline.found("a") == 0


def test_names_are_kept_no_longer_than_there_are_wardens(
    lifeline: Lifeline, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    first = announce(lifeline)
    monkeypatch.setattr(warden_module, "_start_process", _refuse(errno.EMFILE))
    assert lifeline.pid is not None
    os.kill(lifeline.pid, signal.SIGKILL)
    wait_until_sync(lambda: "warden.lost" in caplog.messages)
    names = {first, announce(lifeline), announce(lifeline)}
    assert len(names) == 3
    for name in names:
        lifeline.forget(name)
    assert not lifeline._wards  # noqa: SLF001 - nothing else shows it
    assert not lifeline._spare  # noqa: SLF001 - as above


def test_a_warden_that_cannot_be_started_is_said_once_and_children_start_without(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    lifeline = Lifeline()
    assert not watch(lifeline, "a")
    assert not watch(lifeline, "b")
    assert caplog.messages.count("warden.unavailable") == 1
    assert caplog.records[0].levelno == logging.WARNING


def test_want_of_descriptors_or_threads_passes_and_the_next_child_has_a_warden(
    lifeline: Lifeline, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """F16, F19."""
    with monkeypatch.context() as patch:
        patch.setattr(warden_module, "_start_process", _refuse(errno.EMFILE))
        assert not watch(lifeline, "a")
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", _refuse_thread)
        assert not watch(lifeline, "a")
    assert caplog.messages.count("warden.unavailable") == 2
    assert watch(lifeline, "a")
    assert lifeline.pid is not None


def _refuse_thread(_: object) -> None:
    raise RuntimeError("can't start new thread")


def test_a_program_without_an_interpreter_of_its_own_has_no_warden(monkeypatch: pytest.MonkeyPatch) -> None:
    """Python inside of another program."""
    monkeypatch.setattr(sys, "executable", "")
    assert not watch(Lifeline(), "a")


def test_a_warden_that_hangs_is_replaced(
    lifeline: Lifeline,
    run: Callable[..., "subprocess.Popen[bytes]"],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(warden_module, "SEND_TIMEOUT", 0.05)
    child = run("stubborn")
    assert watch(lifeline, "a", eof_grace=0, stop_grace=0)
    first = lifeline.pid
    assert first is not None
    os.kill(first, signal.SIGSTOP)
    for number in range(2000):  # more than any socket holds
        assert watch(lifeline, f"filler-{number}", eof_grace=0, stop_grace=0)
    pidfd = os.pidfd_open(child.pid)
    lifeline.started("a", child.pid, pidfd)
    assert "warden.hangs" in caplog.messages
    wait_until_sync(lambda: lifeline.pid not in {None, first})
    for number in range(2000):
        lifeline.forget(f"filler-{number}")
    lifeline.hunt("a")
    wait_until_sync(lambda: lifeline.found("a") == 0)  # everything before that has arrived
    lifeline.close()
    assert child.wait() == -signal.SIGKILL
    os.close(pidfd)


def test_what_does_not_fit_into_the_socket_is_sent_when_there_is_room(lifeline: Lifeline) -> None:
    assert watch(lifeline, "a")
    assert lifeline.pid is not None
    os.kill(lifeline.pid, signal.SIGSTOP)
    for number in range(2000):
        assert watch(lifeline, f"filler-{number}")
    lifeline.hunt("a")
    assert lifeline.found("a") is None
    os.kill(lifeline.pid, signal.SIGCONT)
    wait_until_sync(lambda: lifeline.found("a") == 0)  # looking sends what waits


def test_a_process_is_handed_over_when_there_is_room_again(
    lifeline: Lifeline, run: Callable[..., "subprocess.Popen[bytes]"], monkeypatch: pytest.MonkeyPatch
) -> None:
    child = run("stubborn")
    assert watch(lifeline, "a", eof_grace=0, stop_grace=0)
    rooms = iter([False, True])
    send = lifeline._send_started  # noqa: SLF001
    monkeypatch.setattr(lifeline, "_send_started", lambda *packet: next(rooms) and send(*packet))
    pidfd = os.pidfd_open(child.pid)
    lifeline.started("a", child.pid, pidfd)
    assert next(rooms, None) is None
    lifeline.close()
    assert child.wait() == -signal.SIGKILL
    os.close(pidfd)


def test_a_connection_that_breaks_is_at_its_end() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.settimeout(0)
        assert warden_module._receive(ours) == b""  # noqa: SLF001


def test_a_process_for_which_there_is_no_room_is_not_lost() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        with contextlib.suppress(BlockingIOError):
            while True:
                ours.send(b"x", socket.MSG_DONTWAIT)
        started = warden_module._Started(1, None, "")  # noqa: SLF001
        assert not Lifeline()._send_started(ours, "a", started)  # noqa: SLF001


def test_sending_to_a_warden_that_has_just_died_is_no_error(
    lifeline: Lifeline, run: Callable[..., "subprocess.Popen[bytes]"], monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    theirs.close()
    child = run("deaf")
    assert watch(lifeline, "a")
    real = lifeline._connection  # noqa: SLF001
    monkeypatch.setattr(lifeline, "_connection", ours)
    lifeline.hunt("a")
    lifeline.started("a", child.pid, None)
    monkeypatch.setattr(lifeline, "_connection", real)
    ours.close()


def test_the_warden_ignores_the_signals_that_end_a_whole_unit(lifeline: Lifeline) -> None:
    """A service manager signals every process of a unit; the warden goes last."""
    assert watch(lifeline, "a")
    lifeline.hunt("a")
    wait_until_sync(lambda: lifeline.found("a") == 0)  # it is up
    pid = lifeline.pid
    assert pid is not None
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        os.kill(pid, number)
    lifeline.hunt("a")
    wait_until_sync(lambda: lifeline.found("a") == 0)
    assert lifeline.pid == pid


def test_a_forked_copy_lets_go_of_the_lifeline(lifeline: Lifeline, monkeypatch: pytest.MonkeyPatch) -> None:
    """F36."""
    assert watch(lifeline, "a")
    with monkeypatch.context() as patch:
        patch.setattr(warden_module, "_default", lifeline)
        copy = os.fork()
        if copy == 0:
            fresh = warden_module._default is None and lifeline._connection.fileno() < 0  # type: ignore[union-attr]  # noqa: SLF001
            os._exit(0 if fresh else 1)
        assert os.waitpid(copy, 0)[1] == 0
    lifeline.hunt("a")
    wait_until_sync(lambda: lifeline.found("a") == 0)


def test_after_a_fork_the_copy_starts_afresh(lifeline: Lifeline, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(warden_module, "_default", None)
    monkeypatch.setattr(warden_module, "_default_lock", warden_module._default_lock)  # noqa: SLF001
    warden_module._forget_after_fork()  # noqa: SLF001 - there was none
    abandoned: list[object] = []
    monkeypatch.setattr(lifeline, "abandon", lambda: abandoned.append(lifeline))
    monkeypatch.setattr(warden_module, "_default", lifeline)
    warden_module._forget_after_fork()  # noqa: SLF001
    assert abandoned == [lifeline]
    assert default_lifeline() is not lifeline


def test_letting_go_of_a_lifeline_closes_our_side_only() -> None:
    Lifeline().abandon()
    lifeline = Lifeline()
    assert watch(lifeline, "a")
    process, connection, thread = lifeline._process, lifeline._connection, lifeline._thread  # noqa: SLF001
    assert process is not None
    assert connection is not None
    assert thread is not None
    copy = connection.dup()
    lifeline.abandon()
    assert connection.fileno() < 0
    lifeline._closed = True  # noqa: SLF001 - here the thread is there, unlike in a copy
    copy.shutdown(socket.SHUT_RDWR)
    copy.close()
    thread.join()
    assert os.waitpid(process.pid, 0)[1] == 0


def test_the_end_of_the_program_closes_the_lifeline(
    monkeypatch: pytest.MonkeyPatch, run: Callable[..., "subprocess.Popen[bytes]"]
) -> None:
    child = run("stubborn")
    with monkeypatch.context() as patch:
        patch.setattr(warden_module, "_default", None)
        warden_module._close_at_exit()  # noqa: SLF001 - there was no child
        lifeline = default_lifeline()
        assert default_lifeline() is lifeline
        watch_process(lifeline, "a", child)
        warden_module._close_at_exit()  # noqa: SLF001
    assert child.wait() == -signal.SIGKILL


def test_the_warden_waits_without_working(lifeline: Lifeline) -> None:
    """One that polled would cost a core for each broker."""
    assert watch(lifeline, "a")
    lifeline.hunt("a")
    wait_until_sync(lambda: lifeline.found("a") == 0)
    stat = Path(f"/proc/{lifeline.pid}/stat")
    wait_until_sync(lambda: stat.read_text().rpartition(")")[2].split()[0] == "S")
    switches = Path(f"/proc/{lifeline.pid}/status")

    def voluntary() -> str:
        return next(line for line in switches.read_text().splitlines() if line.startswith("voluntary"))

    slept = voluntary()
    select.select([], [], [], 0.05)
    assert voluntary() == slept
