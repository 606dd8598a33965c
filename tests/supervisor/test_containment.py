"""What holds the descendants of a child together, from the side of whoever starts and stops it.

The levels "cgroup" and "shim" must do the same; "group" is there to compare with. F5 to F8.
"""

import asyncio
import contextlib
import errno
import gc
import logging
import os
import random
import re
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import pytest

from stdio_broker.errors import CapacityError
from stdio_broker.supervisor import Child, Config, Phase, SpawnError, start
from stdio_broker.supervisor import cgroup as cgroup_module
from stdio_broker.supervisor import containment as containment_module
from stdio_broker.supervisor.cgroup import Cgroup, CgroupFolder
from stdio_broker.supervisor.config import Level
from stdio_broker.supervisor.spawner import Spawner
from stdio_broker.supervisor.warden_process import MARK
from tests.supervisor.cgroups import frozen, groups_left, own_group, path_of, skip_without_cgroups
from tests.supervisor.children import SIGNAL_MASKS, command, gone, new_tag, ready_line, start_ready
from tests.supervisor.programs import run
from tests.support.processes import find_tagged, is_alive, wait_until_sync

pytestmark = pytest.mark.both_loops

#: What a child leaves behind: arguments of the program that the tests start. It is stubborn.
DESCENDANTS = {
    "member": ["parent", "TAG"],
    "session": ["parent", "TAG", "session"],
    "daemon": ["parent", "TAG", "session", "orphan"],
    "bare-daemon": ["parent", "TAG", "session", "orphan", "bare"],
    "hydra": ["hydra", "TAG"],
}


@pytest.fixture
def tag() -> Iterator[str]:
    """Return a tag; fail if a process that carries it is left after the test."""
    made = new_tag()
    yield made
    wait_until_sync(lambda: not find_tagged(made), what="end of everything that the test has started")


@pytest.fixture(params=["cgroup", "shim"])
def level(request: pytest.FixtureRequest) -> Iterator[Level]:
    """Run the test with both levels that hold everybody; fail if a control group is left."""
    made: Level = request.param
    if made != "cgroup":
        yield made
        return
    skip_without_cgroups()
    yield made
    wait_until_sync(lambda: not groups_left(), what="end of the control groups")


def descendant(kind: str, tag: str) -> list[str]:
    mode, *arguments = DESCENDANTS[kind]
    return command(mode, *(tag if argument == "TAG" else argument for argument in arguments))


async def start_parent(kind: str, tag: str, level: Level, *, warden: bool = True) -> Child:
    """Start a child that forks once it has been started altogether.

    One that forks at once may lose a bare daemon before it is in its control group: see the documentation.
    """
    held = ["sh", "-c", 'read go; exec "$@"', "sh", *descendant(kind, tag)]
    child = await start(Config(cmd=held, containment=level, warden=warden))
    await child.stdin.send(b"go")
    await ready_line(child)
    return child


# Everybody is gone.


@pytest.mark.parametrize("kind", DESCENDANTS)
async def test_who_a_child_leaves_behind_is_gone_when_it_is_done(level: Level, kind: str, tag: str) -> None:
    """F5 to F8, of a child that exits by itself."""
    child = await start_parent(kind, tag, level)
    child.stdin.close()
    status = await child.wait()
    assert find_tagged(tag) == set()
    assert (status.code, status.phase, status.survivors) == (0, Phase.SELF, False)


@pytest.mark.parametrize("kind", DESCENDANTS)
async def test_who_a_stopped_child_leaves_behind_is_gone_when_it_is_done(
    level: Level, kind: str, tag: str
) -> None:
    """F5 to F8."""
    child = await start_parent(kind, tag, level)
    status = await child.stop()
    assert find_tagged(tag) == set()
    assert (status.code, status.phase, status.survivors) == (0, Phase.EOF, False)


@pytest.mark.parametrize("kind", DESCENDANTS)
async def test_who_belongs_to_a_child_that_is_killed_is_gone_when_it_is_done(
    level: Level, kind: str, tag: str
) -> None:
    child = await start_parent(kind, tag, level)
    status = await child.stop(eof_grace=0, stop_grace=0)
    assert find_tagged(tag) == set()
    assert status.survivors is False
    assert status.signal in {signal.SIGKILL, None}  # it may have ended by EOF in that very moment


async def test_a_level_that_holds_only_the_group_does_not_know_the_bare_daemon(tag: str) -> None:
    """What the other two are for."""
    child = await start_ready(Config(cmd=descendant("bare-daemon", tag), containment="group"))
    await child.stop()
    (left,) = find_tagged(tag)
    os.kill(left, signal.SIGKILL)


async def test_many_children_do_not_hurt_each_other(level: Level) -> None:
    tags = [new_tag() for _ in range(6)]
    children = await asyncio.gather(
        *(start_ready(Config(cmd=descendant("daemon", tag), containment=level)) for tag in tags)
    )
    for child, tag in zip(children, tags, strict=True):
        assert find_tagged(tag)
        await child.stop()
        assert not find_tagged(tag)


async def test_who_outlives_sigkill_is_reported_and_the_child_is_done_nevertheless(
    level: Level, tag: str
) -> None:
    """F13, of a descendant. `done` is bounded by the graces."""
    child = await start(Config(cmd=descendant("daemon", tag), containment=level, kill_grace=0.1))
    daemon = int(await ready_line(child))
    with frozen(daemon):
        status = await child.stop()
        assert (status.code, status.phase, status.survivors) == (0, Phase.EOF, True)
        assert is_alive(daemon)
    await gone(tag)
    # The next child sees to its group.
    await (await start(Config(cmd=["true"], containment=level))).wait()


# It ends the way it would without.

FOR_EVER = 60.0


@pytest.mark.parametrize(
    ("mode", "graces", "expected"),
    [
        ("polite", (FOR_EVER, FOR_EVER), (Phase.EOF, 0, None, True)),
        ("leave-at-eof 255", (FOR_EVER, FOR_EVER), (Phase.EOF, 255, None, True)),
        ("deaf", (0.0, FOR_EVER), (Phase.TERM, None, signal.SIGTERM, True)),
        ("graceful", (0.0, FOR_EVER), (Phase.TERM, 7, None, True)),
        ("stubborn", (0.0, 0.05), (Phase.KILL, None, signal.SIGKILL, False)),
        ("stubborn", (0.0, 0.0), (Phase.KILL, None, signal.SIGKILL, False)),
    ],
)
async def test_a_stop_tells_how_the_child_itself_has_ended(
    level: Level,
    mode: str,
    graces: tuple[float, float],
    expected: tuple[Phase, int | None, int | None, bool],
) -> None:
    child = await start_ready(Config(cmd=command(*mode.split()), containment=level))
    status = await child.stop(eof_grace=graces[0], stop_grace=graces[1])
    assert (status.phase, status.code, status.signal, status.ok) == expected


@pytest.mark.parametrize("code", [0, 3, 255])
async def test_an_exit_code_is_the_childs_own(level: Level, code: int) -> None:
    child = await start(Config(cmd=command("leave", code), containment=level))
    status = await child.wait()
    assert (status.phase, status.code, status.signal, status.ok) == (Phase.SELF, code, None, code == 0)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGSEGV, signal.SIGUSR1])
async def test_the_signal_that_ended_a_child_is_told(level: Level, number: signal.Signals) -> None:
    child = await start(Config(cmd=command("die", int(number)), containment=level))
    status = await child.wait()
    assert (status.phase, status.code, status.signal, status.ok) == (Phase.SELF, None, number, False)


async def test_a_stopped_child_obeys_sigterm(level: Level, tag: str) -> None:
    """F2."""
    child = await start_ready(Config(cmd=command("deaf", tag), containment=level, eof_grace=0))
    for pid in find_tagged(tag):
        os.kill(pid, signal.SIGSTOP)
    status = await child.stop(stop_grace=FOR_EVER)
    assert (status.phase, status.signal) == (Phase.TERM, signal.SIGTERM)


async def test_what_crosses_the_pipes_is_the_childs_own(level: Level) -> None:
    errors: list[str] = []
    talk = 'while read -r line; do echo "$line"; echo "E$line" >&2; done; echo last'
    child = await start(
        Config(cmd=["sh", "-c", talk], containment=level, on_stderr=errors.append, eof_grace=FOR_EVER)
    )
    for line in (b"one", b"two"):
        await child.stdin.send(line)
    child.stdin.close()
    assert [line async for line in child.stdout] == [b"one", b"two", b"last"]
    assert (await child.wait()).pipes_held is False
    assert errors == ["Eone", "Etwo"]


# What it has been given.

#: Each prints something that a process has been given.
GIFTS: dict[str, list[str]] = {
    "descriptors": command("descriptors"),
    "environment": ["/usr/bin/env"],
    "command line": ["cat", "/proc/self/cmdline"],
    "directory": ["pwd"],
    "arguments": command("arguments", "", "two words", "ä", os.fsdecode(b"\xff")),
    "signals": list(SIGNAL_MASKS),
    "limits": ["sh", "-c", "ulimit -a"],
    "session": ["sh", "-c", 'cut -d " " -f 5,6 /proc/$$/stat | sed "s/\\b$$\\b/own/g"'],
    "umask": ["sh", "-c", "umask"],
}


async def output(level: Level, cmd: list[str], cwd: Path) -> list[bytes]:
    env = {"A": "1", "LC_ALL": None, "LANG": None, "LC_CTYPE": None}
    child = await start(Config(cmd=cmd, containment=level, env=env, inherit_env=("PATH",), cwd=cwd))
    lines = [line async for line in child.stdout]
    status = await child.wait()
    assert status.code == 0, child.stderr_tail
    return [line for line in lines if not line.startswith(MARK.encode())]


@pytest.mark.parametrize("gift", GIFTS)
async def test_a_child_is_given_what_it_would_be_given_without(
    level: Level, gift: str, tmp_path: Path
) -> None:
    """F31, F32. A shim that is written in Python must not pass on what Python does to itself."""
    expected = await output("group", GIFTS[gift], tmp_path)
    assert expected
    assert await output(level, GIFTS[gift], tmp_path) == expected


# Why a start fails.


@pytest.fixture
def files(tmp_path: Path) -> Path:
    (tmp_path / "text").write_text("hello")
    (tmp_path / "no-magic").write_bytes(b"\x7fNOT-ELF")
    (tmp_path / "no-magic").chmod(0o755)
    shutil.copy(shutil.which("true") or "", tmp_path / "busy")
    return tmp_path


@pytest.mark.parametrize(
    ("program", "cwd", "reason"),
    [
        ("no-such-command", None, "there is no such command on the child's PATH"),
        ("{files}/missing", None, "there is no such file, or the interpreter that it names is missing"),
        ("{files}/text", None, "permission denied: is it executable?"),
        ("{files}/no-magic", None, "it is neither a program nor a script that starts with #!"),
        ("{files}/text/program", None, "a part of its path is no directory"),
        ("{files}/busy", None, "Text file busy"),
        ("true", "{files}/missing", "cannot enter the working directory"),
        ("true", "{files}/text", "cannot enter the working directory"),
        ("\ud800", None, "surrogates not allowed"),
    ],
)
async def test_a_start_that_fails_says_the_same_at_every_level(
    level: Level, program: str, cwd: str | None, reason: str, files: Path
) -> None:
    """F15. Nothing is left: `level` looks for groups, the leak check for descriptors and processes."""
    cmd = [program.format(files=files)]
    where = None if cwd is None else cwd.format(files=files)
    with (files / "busy").open("r+b"):
        with pytest.raises(SpawnError, match=re.escape(reason)) as caught:
            await start(Config(cmd=cmd, cwd=where, containment=level))
        with pytest.raises(SpawnError) as expected:
            await start(Config(cmd=cmd, cwd=where, containment="group"))
    assert str(caught.value) == str(expected.value)


async def test_a_start_that_is_cancelled_leaves_nobody_and_no_group(level: Level, tag: str) -> None:
    """F20."""
    chance = random.Random(20)  # noqa: S311 - no secret, and the same moments every time
    for _ in range(20):
        starting = asyncio.ensure_future(start(Config(cmd=command("stubborn", tag), containment=level)))
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(asyncio.shield(starting), chance.uniform(0, 0.05))
        starting.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await (await starting).stop(eof_grace=0, stop_grace=0)
    await gone(tag)


def test_a_loop_that_is_closed_over_a_living_child_leaves_nobody_and_no_group(level: Level, tag: str) -> None:
    """F35: the thread that starts children ends them then."""
    loop = asyncio.new_event_loop()
    loop.set_exception_handler(lambda *_: None)  # it says that a pending task was destroyed
    child = loop.run_until_complete(start_ready(Config(cmd=descendant("daemon", tag), containment=level)))
    loop.close()
    assert find_tagged(tag)
    del child
    gc.collect()
    wait_until_sync(lambda: not find_tagged(tag), what="end of the child and of its daemon")


@pytest.mark.parametrize("ending", ["pass", "sys.exit(0)"])
def test_a_program_that_stops_nobody_leaves_nobody_and_no_group(level: Level, ending: str, tag: str) -> None:
    """F35. Without a warden too, which would see to it as well."""
    result = run(
        f"""
        async def main():
            config = Config(cmd=command, containment={level!r}, warden=False)
            await ready(await start(config))

        loop = asyncio.new_event_loop()
        loop.set_exception_handler(lambda *_: None)
        loop.run_until_complete(main())
        print(os.getpid())
        {ending}
        """,
        *descendant("daemon", tag),
    )
    assert result.returncode == 0, result.stderr
    wait_until_sync(lambda: not find_tagged(tag))
    if level == "cgroup":
        assert not list(own_group().glob(f"stdio-broker-{result.stdout.strip()}-*"))


# Without control groups.


@pytest.fixture
def no_cgroups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CgroupFolder:
    """Have a system without control groups."""
    (tmp_path / "cgroup").write_text("1:name=systemd:/\n")
    (tmp_path / "mountinfo").write_text("")
    folder = CgroupFolder(tmp_path)
    monkeypatch.setattr(containment_module, "default_folder", lambda: folder)
    return folder


@pytest.fixture
def cgroups(monkeypatch: pytest.MonkeyPatch) -> Iterator[CgroupFolder]:
    """Have control groups in a folder of the test's own, which is to be empty at the end."""
    skip_without_cgroups()
    folder = CgroupFolder()
    monkeypatch.setattr(containment_module, "default_folder", lambda: folder)
    folder.make("first").remove()
    yield folder
    wait_until_sync(lambda: not groups_left(folder), what="end of the control groups")
    folder.close()


def unusable(caplog: pytest.LogCaptureFixture) -> list[tuple[int, str]]:
    """Return what was logged about groups that cannot be used."""
    return [
        (record.levelno, record.__dict__["error"])
        for record in caplog.records
        if record.getMessage() == "cgroup.unusable"
    ]


async def hunts(config: Config, tag: str) -> None:
    """See a daemon end with its child, although it is in no control group."""
    child = await start_ready(config)
    (group,) = {Path(f"/proc/{pid}/cgroup").read_text() for pid in find_tagged(tag)}
    assert group == Path("/proc/self/cgroup").read_text()
    await child.stop()
    assert find_tagged(tag) == set()


async def test_where_there_are_no_control_groups_auto_hunts_and_says_so_once(
    no_cgroups: CgroupFolder, tag: str, caplog: pytest.LogCaptureFixture
) -> None:
    """No warning: that is how things are for an unprivileged user, and in a container."""
    with caplog.at_level(logging.INFO):
        for _ in range(2):
            await hunts(Config(cmd=descendant("daemon", tag)), tag)
    assert unusable(caplog) == [(logging.INFO, "this process is in no cgroup v2 that is mounted here")]


async def test_where_there_are_no_control_groups_a_child_that_needs_one_is_refused(
    no_cgroups: CgroupFolder,
) -> None:
    with pytest.raises(SpawnError, match=r"^cannot start 'true': this process is in no cgroup v2 that is"):
        await start(Config(cmd=["true"], containment="cgroup"))


def limit_groups(folder: CgroupFolder) -> None:
    """Have the system refuse one more group."""
    (path_of(folder) / "cgroup.max.descendants").write_text("0")


async def test_a_group_that_cannot_be_made_is_warned_of_once_and_auto_hunts(
    cgroups: CgroupFolder, tag: str, caplog: pytest.LogCaptureFixture
) -> None:
    limit_groups(cgroups)
    for _ in range(2):
        await hunts(Config(cmd=descendant("daemon", tag)), tag)
    reason = f"no control group can be made in {path_of(cgroups)}: Resource temporarily unavailable"
    assert unusable(caplog) == [(logging.WARNING, reason)]
    # It may be possible again: this is no reason to give up.
    (path_of(cgroups) / "cgroup.max.descendants").write_text("max")
    child = await start_ready(Config(cmd=command("polite")))
    assert len(groups_left(cgroups)) == 1
    await child.stop()


async def test_a_group_that_cannot_be_made_refuses_a_child_that_needs_one(cgroups: CgroupFolder) -> None:
    limit_groups(cgroups)
    with pytest.raises(
        SpawnError, match=r"no control group can be made in .*: Resource temporarily"
    ) as caught:
        await start(Config(cmd=["true"], containment="cgroup"))
    assert not isinstance(caught.value, CapacityError), "it is about groups, not about processes"


def refuse_to_move(monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    """Have the system refuse to put a process into a group."""

    def refuse(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(Cgroup, "_move", refuse)


async def test_a_group_that_cannot_be_joined_is_warned_of_once_and_auto_hunts_from_then_on(
    cgroups: CgroupFolder, tag: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    refuse_to_move(monkeypatch, errno.EACCES)
    await hunts(Config(cmd=descendant("daemon", tag)), tag)
    monkeypatch.undo()
    monkeypatch.setattr(containment_module, "default_folder", lambda: cgroups)
    await hunts(Config(cmd=descendant("daemon", tag)), tag)
    reason = "it cannot be put into its control group: Permission denied"
    assert unusable(caplog) == [(logging.WARNING, reason)]


async def test_a_group_that_cannot_be_joined_refuses_a_child_that_needs_one(
    cgroups: CgroupFolder, tag: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    refuse_to_move(monkeypatch, errno.EACCES)
    with pytest.raises(SpawnError, match="it cannot be put into its control group: Permission denied"):
        await start(Config(cmd=command("stubborn", tag), containment="cgroup"))
    assert find_tagged(tag) == set()


@pytest.mark.parametrize("level", ["auto", "cgroup"])
async def test_too_few_descriptors_fail_the_start_and_do_not_cost_the_next_child_its_group(
    cgroups: CgroupFolder, level: Level, tag: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        refuse_to_move(patch, errno.EMFILE)
        with pytest.raises(CapacityError, match="no file descriptors are left"):
            await start(Config(cmd=command("stubborn", tag), containment=level))
    child = await start_ready(Config(cmd=command("polite"), containment=level))
    assert len(groups_left(cgroups)) == 1
    await child.stop()


@pytest.mark.parametrize("level", ["auto", "cgroup"])
async def test_too_few_descriptors_to_look_for_groups_are_no_reason_to_do_without(
    level: Level, monkeypatch: pytest.MonkeyPatch
) -> None:
    skip_without_cgroups()
    folder = CgroupFolder()
    monkeypatch.setattr(containment_module, "default_folder", lambda: folder)
    with monkeypatch.context() as patch:
        patch.setattr(cgroup_module, "_lines", _raises(OSError(errno.EMFILE, "none left")))
        with pytest.raises(CapacityError, match="no file descriptors are left"):
            await start(Config(cmd=["true"], containment=level))
    child = await start_ready(Config(cmd=command("polite"), containment=level))
    assert len(groups_left(folder)) == 1
    await child.stop()
    folder.close()


def _raises(exc: BaseException) -> Callable[..., None]:
    def function(*_: object) -> None:
        raise exc

    return function


async def test_who_may_have_escaped_from_the_group_is_hunted_too(
    cgroups: CgroupFolder, tag: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Cgroup, "adopt", lambda *_: False)
    await hunts(Config(cmd=descendant("daemon", tag), containment="cgroup"), tag)


async def test_a_group_that_takes_nobody_any_more_is_replaced(cgroups: CgroupFolder) -> None:
    """The child that was in it before may write to its files: a container engine, another broker."""
    first = await start_ready(Config(cmd=command("polite"), containment="cgroup"))
    (used,) = groups_left(cgroups)
    await first.stop()
    (path_of(cgroups) / used).rmdir()  # as good as any other reason why it takes nobody
    second = await start_ready(Config(cmd=command("polite"), containment="cgroup"))
    (fresh,) = groups_left(cgroups)
    assert fresh != used
    await second.stop()


# Which level does what.


@pytest.mark.parametrize(
    ("config", "grouped"),
    [
        ({}, True),
        ({"containment": "cgroup"}, True),
        ({"containment": "group"}, False),
        ({"containment": "shim"}, False),
        ({"orphans": "leave"}, False),
        ({"warden": False}, True),
    ],
    ids=str,
)
async def test_a_child_is_in_a_control_group_if_it_may_be_and_nobody_is_to_be_left(
    cgroups: CgroupFolder, config: dict[str, Any], *, grouped: bool
) -> None:
    child = await start_ready(Config(cmd=command("polite"), **config))
    groups = Path(f"/proc/{child.pid}/cgroup").read_text()
    assert [name for name in groups_left(cgroups) if f"/{name}\n" in groups] == groups_left(cgroups)
    assert len(groups_left(cgroups)) == grouped
    await child.stop()


@pytest.mark.parametrize(
    "config",
    [
        {"orphans": "leave"},
        {"orphans": "leave", "containment": "group"},
        {"orphans": "leave", "warden": False},
    ],
    ids=str,
)
@pytest.mark.parametrize("kind", ["member", "daemon", "bare-daemon"])
async def test_descendants_that_may_be_left_are_left(config: dict[str, Any], kind: str, tag: str) -> None:
    """F5."""
    child = await start_ready(Config(cmd=descendant(kind, tag), drain_grace=0.05, **config))
    status = await child.stop()
    assert (status.pipes_held, status.survivors) == (True, False)
    (left,) = find_tagged(tag)
    os.kill(left, signal.SIGKILL)


async def test_without_a_warden_nobody_hunts(tag: str) -> None:
    """What `warden=False` gives up at the level "group"."""
    child = await start_ready(
        Config(cmd=descendant("daemon", tag), containment="group", warden=False, drain_grace=0.05)
    )
    assert (await child.stop()).survivors is False
    (left,) = find_tagged(tag)
    os.kill(left, signal.SIGKILL)


async def test_without_a_warden_the_levels_that_hold_everybody_hold_everybody(level: Level, tag: str) -> None:
    child = await start_parent("bare-daemon", tag, level, warden=False)
    await child.stop()
    assert find_tagged(tag) == set()


@pytest.mark.parametrize("inherit", ["minimal", "all"])
async def test_a_child_of_a_child_bears_both_marks(
    inherit: Literal["minimal", "all"], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A broker may be the child of another one, and both must find what escaped."""
    monkeypatch.setenv(MARK, "outer")
    child = await start(Config(cmd=["env"], inherit_env=inherit))
    first = await child.stdout.receive()
    assert re.fullmatch(rf"{MARK}=outer,[0-9a-f]{{16}}".encode(), first)
    await child.wait()


async def test_a_child_that_nothing_was_asked_to_hold_is_held_by_its_group(
    spawner: Spawner, tag: str
) -> None:
    spawned = await spawner.spawn(command("wrapper", tag, "stubborn"), env={}, cwd=None)
    assert not spawned.containment.leader_sweeps
    assert spawned.containment.pass_fds == ()
    spawner.discard(spawned)
    await gone(tag)


# Values.


def test_the_best_that_can_be_had_is_the_default() -> None:
    config = Config(cmd=["cat"])
    assert (config.containment, config.orphans, config.warden) == ("auto", "kill", True)


@pytest.mark.parametrize("level", ["", "none", "Shim", None])
def test_a_level_that_there_is_not_is_refused(level: Any) -> None:  # noqa: ANN401 - that is the mistake
    expected = 'containment: expected "auto", "group", "cgroup" or "shim", found '
    with pytest.raises(ValueError, match=f"^{re.escape(expected + repr(level))}$"):
        Config(cmd=["cat"], containment=level)


def test_something_else_than_killing_or_leaving_orphans_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^orphans: expected .kill. or .leave., found 'adopt'$"):
        Config(cmd=["cat"], orphans="adopt")  # type: ignore[arg-type] # that is the mistake


@pytest.mark.parametrize("containment", ["cgroup", "shim"])
def test_orphans_cannot_be_left_by_what_holds_them(containment: Level) -> None:
    with pytest.raises(ValueError, match=f'^orphans: expected "kill" with containment "{containment}"'):
        Config(cmd=["cat"], containment=containment, orphans="leave")
