"""Control groups: who is in one, how it ends, and whether there can be any."""

import logging
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from stdio_broker.supervisor import cgroup as cgroup_module
from stdio_broker.supervisor.cgroup import SPARE_GROUPS, Cgroup, CgroupFolder, Held, default_folder
from stdio_broker.supervisor.warden import new_key
from stdio_broker.supervisor.warden_process import MARK
from tests.supervisor.cgroups import groups_left, own_group, path_of, skip_without_cgroups
from tests.supervisor.children import command, new_tag
from tests.supervisor.programs import run
from tests.support.processes import find_tagged, is_alive, is_zombie, wait_until_sync


@pytest.fixture
def tag() -> Iterator[str]:
    """Return a tag; fail if a process that carries it is left after the test."""
    made = new_tag()
    yield made
    wait_until_sync(lambda: not find_tagged(made), what="end of everything that the test has started")


@pytest.fixture
def folder() -> Iterator[CgroupFolder]:
    """Return a folder for groups. Skips where there can be none."""
    skip_without_cgroups()
    own = CgroupFolder()
    own.make("first").remove()
    yield own
    own.close()
    assert not path_of(own).exists()


@pytest.fixture
def key() -> str:
    """Return the name of a child."""
    return new_key()


@pytest.fixture
def group(folder: CgroupFolder, key: str) -> Cgroup:
    """Return the group of a child, which is removed with its folder."""
    return folder.make(key)


@pytest.fixture
def popen(key: str, group: Cgroup) -> Iterator[Callable[..., "subprocess.Popen[bytes]"]]:
    """Start a process as the supervisor does, but not in its group yet; kill what is in the group at last."""
    processes: list[subprocess.Popen[bytes]] = []

    def start(*argv: str, ready: bool = True) -> "subprocess.Popen[bytes]":
        process = subprocess.Popen(
            argv,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={MARK: key, "PATH": os.environ["PATH"]},
            start_new_session=True,
        )
        processes.append(process)
        if ready:
            assert process.stdout is not None
            assert process.stdout.readline().startswith(b"ready")
        return process

    yield start
    group.kill()
    for process in processes:
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                pipe.close()
    wait_until_sync(lambda: not group.populated(), what="end of everybody in the group")


def members(group: Cgroup) -> set[int]:
    return {int(pid) for pid in Path(group.path, "cgroup.procs").read_text().split()}


# A group.


def test_a_group_holds_a_process_until_it_is_killed(
    group: Cgroup, key: str, popen: Callable[..., "subprocess.Popen[bytes]"]
) -> None:
    assert not group.populated()
    process = popen(*command("stubborn"))
    assert group.adopt(process.pid, key)
    assert members(group) == {process.pid}
    assert group.populated()
    assert not group.remove()
    group.kill()
    assert process.wait() == -signal.SIGKILL
    wait_until_sync(lambda: not group.populated())
    assert group.remove()


def test_zombies_do_not_count(
    group: Cgroup, key: str, popen: Callable[..., "subprocess.Popen[bytes]"]
) -> None:
    process = popen(*command("stubborn"))
    group.adopt(process.pid, key)
    group.kill()
    wait_until_sync(lambda: is_zombie(process.pid))
    wait_until_sync(lambda: not group.populated())
    assert group.remove()


def test_a_group_that_is_gone_is_empty(group: Cgroup) -> None:
    assert group.remove()
    assert group.remove()
    group.kill()
    assert not group.populated()


def test_the_groups_that_a_child_has_made_go_with_its_own(group: Cgroup) -> None:
    """It may be a broker, that was killed."""
    Path(group.path, "one", "two").mkdir(parents=True)
    Path(group.path, "other").mkdir()
    assert group.remove()
    assert not Path(group.path).exists()


def test_what_lives_in_a_group_that_a_child_has_made_lives_in_its_own(
    group: Cgroup, key: str, popen: Callable[..., "subprocess.Popen[bytes]"]
) -> None:
    inner = Cgroup(f"{group.path}/inner")
    process = popen(*command("stubborn"))
    inner.adopt(process.pid, key)
    assert group.adopt(process.pid, key)
    inner.adopt(process.pid, key)
    assert group.populated()
    assert not group.remove()
    group.kill()
    assert process.wait() == -signal.SIGKILL


# What was forked before.


def certain(group: Cgroup, pid: int, key: str) -> None:
    """Adopt a process until there is no doubt: what others start may be in the middle of an exec."""
    wait_until_sync(lambda: bool(group.adopt(pid, key)))


@pytest.mark.parametrize(
    "traits",
    [
        (),
        ("bare",),
        ("orphan",),
        ("orphan", "bare"),
        ("session",),
        ("session", "bare"),
        ("session", "orphan"),
    ],
    ids="-".join,
)
def test_who_was_forked_before_the_child_is_in_its_group_is_found_and_put_there_too(
    traits: tuple[str, ...],
    group: Cgroup,
    key: str,
    tag: str,
    popen: Callable[..., "subprocess.Popen[bytes]"],
) -> None:
    """By its mark, its session or its parent."""
    process = popen(*command("parent", tag, *traits))
    certain(group, process.pid, key)
    assert members(group) == find_tagged(tag)
    assert len(members(group)) == 2


def test_where_one_has_nothing_in_common_with_the_child_any_more_there_is_doubt(
    group: Cgroup, key: str, tag: str, popen: Callable[..., "subprocess.Popen[bytes]"]
) -> None:
    """What is given up for a cheap start: see the module. It could be in the middle of an exec, too."""
    process = popen(*command("parent", tag, "session", "orphan", "bare"))
    assert not group.adopt(process.pid, key)
    assert members(group) == {process.pid}
    (outside,) = find_tagged(tag) - {process.pid}
    os.kill(outside, signal.SIGKILL)


#: A shell that waits for a bare process in a session of its own.
LAYER = ("sh", "-c", 'setsid env -i PATH=/usr/bin:/bin "$@"; exit', "sh")


ORPHAN = ("sh", "-c", '(setsid "$@" &); read line', "sh")


@pytest.mark.parametrize("around", [LAYER, ORPHAN], ids=["in-the-tree", "under-an-orphan"])
def test_who_was_forked_by_one_that_was_forked_is_found(
    around: tuple[str, ...],
    group: Cgroup,
    key: str,
    tag: str,
    popen: Callable[..., "subprocess.Popen[bytes]"],
) -> None:
    """They are known by nothing but their parents."""
    process = popen(*around, *LAYER, *LAYER, *command("member", tag))
    certain(group, process.pid, key)
    assert members(group) == find_tagged(tag)
    assert len(members(group)) == 4


def test_where_numbers_do_not_tell_who_is_younger_all_are_looked_at(
    group: Cgroup,
    key: str,
    tag: str,
    popen: Callable[..., "subprocess.Popen[bytes]"],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With systemd's ProcSubset=pid."""
    read = cgroup_module._read  # noqa: SLF001 - what the kernel says cannot be changed

    def changed(path: Path | str, *size: int) -> bytes:
        if path == "/proc/loadavg":
            raise FileNotFoundError(path)
        return read(path, *size)

    process = popen(*command("parent", tag, "session", "orphan"))
    monkeypatch.setattr(cgroup_module, "_read", changed)
    certain(group, process.pid, key)
    assert members(group) == find_tagged(tag)
    assert len(members(group)) == 2


def test_when_numbers_have_begun_again_all_are_looked_at() -> None:
    """None is as high as this one."""
    younger = cgroup_module._younger_than(1 << 22)  # noqa: SLF001 - to get there takes a million processes
    assert os.getpid() in {process for process, _, _ in younger}


def test_a_child_that_ended_before_it_was_in_its_group_leaves_its_descendants_there(
    group: Cgroup, key: str, tag: str, popen: Callable[..., "subprocess.Popen[bytes]"]
) -> None:
    process = popen(*command("parent", tag, "session", "orphan"))
    assert process.stdin is not None
    process.stdin.close()
    wait_until_sync(lambda: is_zombie(process.pid))
    certain(group, process.pid, key)
    assert members(group) == find_tagged(tag) != set()


def test_a_child_that_the_system_has_collected_already_is_none_to_move(
    group: Cgroup, key: str, tag: str, popen: Callable[..., "subprocess.Popen[bytes]"]
) -> None:
    """F31: SIGCHLD is ignored. That must not look like a group that cannot be joined."""
    process = popen(*command("parent", tag, "session", "orphan"))
    assert process.stdin is not None
    process.stdin.close()
    process.wait()
    group.adopt(process.pid, key)
    assert members(group) == find_tagged(tag) != set()


PYTHON = (sys.executable, "-I", "-S", "-c")

LEAVE_A_ZOMBIE = """
import os

if os.fork() == 0:
    os._exit(0)
os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOWAIT)
print("ready", flush=True)
input()
"""


def test_zombies_are_not_looked_for(
    group: Cgroup, key: str, popen: Callable[..., "subprocess.Popen[bytes]"]
) -> None:
    """They cannot be moved, and would be found for ever."""
    process = popen(*PYTHON, LEAVE_A_ZOMBIE)
    certain(group, process.pid, key)


def test_who_is_in_the_group_already_is_left_alone(
    group: Cgroup,
    key: str,
    tag: str,
    popen: Callable[..., "subprocess.Popen[bytes]"],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    process = popen(*command("parent", tag))
    group.adopt(process.pid, key)
    moved: list[int] = []
    monkeypatch.setattr(Cgroup, "_move", lambda _, pid: moved.append(pid))
    certain(group, process.pid, key)
    assert set(moved) == {process.pid}


def test_where_descendants_keep_vanishing_there_is_doubt(
    group: Cgroup,
    key: str,
    tag: str,
    popen: Callable[..., "subprocess.Popen[bytes]"],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What they forked, if anything, is outside of the group, and is yet to be found."""
    gone = popen(*command("polite"))
    gone.kill()
    gone.wait()
    looks: list[int] = []

    def tree(pid: int) -> tuple[set[int], bool]:
        looks.append(pid)
        return {gone.pid}, True

    monkeypatch.setattr(cgroup_module, "_tree", tree)
    process = popen(*command("parent", tag))
    assert not group.adopt(process.pid, key)
    assert looks == [process.pid] * cgroup_module.STRAY_ROUNDS
    monkeypatch.undo()
    assert group.adopt(process.pid, key)


tree = cgroup_module._tree  # noqa: SLF001 - that it is not searched costs nothing but time


@pytest.mark.parametrize("last", ["itself", "another", "unknown"])
def test_one_that_has_forked_nobody_is_alone_also_where_others_fork(
    last: str,
    group: Cgroup,
    key: str,
    popen: Callable[..., "subprocess.Popen[bytes]"],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Where the number that was given last is its own, there is nothing more to look at."""
    process = popen(*command("polite"))
    numbers = {"itself": process.pid, "another": process.pid + 1, "unknown": 0}
    monkeypatch.setattr(cgroup_module, "_last_pid", lambda: numbers[last])
    looks: list[int] = []

    def counted(pid: int) -> tuple[set[int], bool]:
        looks.append(pid)
        return tree(pid)

    monkeypatch.setattr(cgroup_module, "_tree", counted)
    assert group.adopt(process.pid, key) is Held.ALONE
    assert looks == ([] if last == "itself" else [process.pid])
    assert members(group) == {process.pid}


def test_one_that_has_forked_is_not_alone(
    group: Cgroup, key: str, tag: str, popen: Callable[..., "subprocess.Popen[bytes]"]
) -> None:
    """Not even when all that it forked are in the group: their limits are still to be set."""
    process = popen("sh", "-c", '"$@"; exit', "sh", *command("wrapper", tag, "deaf"))
    assert group.adopt(process.pid, key) is Held.FAMILY
    assert group.adopt(process.pid, key) is Held.FAMILY
    wait_until_sync(lambda: members(group) == find_tagged(tag))


# Whether it is worth searching.


def test_a_process_that_has_not_forked_is_not_worth_it(
    popen: Callable[..., "subprocess.Popen[bytes]"],
) -> None:
    """It takes milliseconds, and most do not fork so early."""
    assert tree(popen(*command("polite")).pid) == (set(), True)


def test_nor_is_one_whose_children_all_live(
    group: Cgroup, key: str, tag: str, popen: Callable[..., "subprocess.Popen[bytes]"]
) -> None:
    """What npx and `sh -c` do."""
    process = popen("sh", "-c", '"$@"; exit', "sh", *command("wrapper", tag, "deaf"))
    assert tree(process.pid) == (find_tagged(tag) - {process.pid}, True)
    assert len(find_tagged(tag)) == 3
    assert group.adopt(process.pid, key)  # to be killed with it


FORK_IN_A_THREAD = """
import os, threading

def work():
    if os.fork() == 0:
        os.execvp("sh", ["sh", "-c", "echo ready; read line"])
    os.wait()

threading.Thread(target=work).start()
"""


def test_a_child_of_any_of_its_threads_is_its_child(popen: Callable[..., "subprocess.Popen[bytes]"]) -> None:
    found, sure = tree(popen(*PYTHON, FORK_IN_A_THREAD).pid)
    assert len(found) == 1
    assert sure


@pytest.mark.parametrize(
    "argv",
    [
        ["sh", "-c", "/bin/true; echo ready; read line"],
        [*PYTHON, LEAVE_A_ZOMBIE],
        [*PYTHON, "import signal as s; s.signal(s.SIGCHLD, s.SIG_IGN); print('ready', flush=True); input()"],
    ],
    ids=["waited-for", "not-yet-waited-for", "never-waited-for"],
)
def test_one_that_may_have_lost_a_child_is_worth_it(
    argv: list[str], popen: Callable[..., "subprocess.Popen[bytes]"]
) -> None:
    _, sure = tree(popen(*argv).pid)
    assert not sure


def test_one_that_has_ended_is_worth_it(popen: Callable[..., "subprocess.Popen[bytes]"]) -> None:
    process = popen("true", ready=False)
    wait_until_sync(lambda: is_zombie(process.pid))
    assert tree(process.pid) == (set(), False)
    process.wait()
    assert tree(process.pid) == (set(), False)


# Whether there can be groups.


@pytest.fixture
def proc(tmp_path: Path) -> Path:
    """Return the folder of a process in a /proc of the test's own."""
    made = tmp_path / "proc"
    made.mkdir()
    return made


V1 = "41 32 0:29 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu"


def mount(folder: object, root: str = "/") -> str:
    return f"42 32 0:38 {root} {folder} rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate"


def describe(proc: Path, group: str | None, *mounts: str) -> None:
    lines = ["9:name=systemd:/system.slice", "1:cpu,cpuacct:/elsewhere"]
    if group is not None:
        lines.append(f"0::{group}")
    (proc / "cgroup").write_bytes(os.fsencode("\n".join(lines) + "\n"))
    (proc / "mountinfo").write_bytes(os.fsencode("\n".join([V1, *mounts]) + "\n"))


def why_not(proc: Path) -> str:
    folder = CgroupFolder(proc)
    with pytest.raises(OSError, match=r".") as caught:
        folder.make("child")
    assert caught.value.errno is None
    folder.close()
    return str(caught.value)


NOT_MOUNTED = "this process is in no cgroup v2 that is mounted here"


@pytest.mark.parametrize(
    ("group", "root", "where"),
    [
        ("/", "/", ""),
        ("/a/b c", "/", "a/b c"),
        ("/a/b", "/a", "b"),
        ("/a/b", "/a/b", ""),
        ("/../a", "/..", "a"),
        ("/../../a/b", "/../../a", "b"),
        (os.fsdecode(b"/\xff\xe2\x80\xa8"), "/", os.fsdecode(b"\xff\xe2\x80\xa8")),
    ],
    ids=ascii,
)
def test_our_own_group_is_found_where_it_is_mounted(
    group: str, root: str, where: str, proc: Path, tmp_path: Path
) -> None:
    """cgroup_namespaces(7): a namespace sees what is outside of it as "/..". The files are no groups here."""
    mounted = tmp_path / "a mount\\point"
    (mounted / where).mkdir(parents=True)
    escaped = str(mounted).replace("\\", "\\134").replace(" ", "\\040")
    describe(proc, group, mount("/elsewhere", "/other"), mount(escaped, root))
    assert why_not(proc) == "the kernel is older than 5.14, and has no cgroup.kill"
    assert list((mounted / where).iterdir()) == [], "what was made to look at is removed"


@pytest.mark.parametrize(
    ("group", "root"),
    [("/../a", "/"), ("/a/../../b", "/"), ("/", "/.."), ("/ab", "/a"), ("/a", "/a/b"), ("/../../a", "/..")],
)
def test_a_group_that_is_not_below_a_mount_cannot_be_used(
    group: str, root: str, proc: Path, tmp_path: Path
) -> None:
    describe(proc, group, mount(tmp_path, root))
    before = set(tmp_path.iterdir())
    assert why_not(proc) == NOT_MOUNTED
    assert set(tmp_path.iterdir()) == before


def test_without_a_mount_or_a_group_there_is_none(proc: Path, tmp_path: Path) -> None:
    describe(proc, "/")
    assert why_not(proc) == NOT_MOUNTED
    describe(proc, None, mount(tmp_path))
    assert why_not(proc) == NOT_MOUNTED


def test_a_system_that_tells_nothing_has_none(proc: Path) -> None:
    """macOS; or a sandbox."""
    assert why_not(proc / "nowhere") == (
        "this system does not tell its control groups: No such file or directory"
    )


def test_a_folder_that_cannot_be_written_to_is_named(proc: Path, tmp_path: Path) -> None:
    """It has vanished here, as root may write everywhere."""
    describe(proc, "/gone (deleted)", mount(tmp_path))
    assert why_not(proc) == (
        f"no control group can be made in {tmp_path}/gone (deleted): No such file or directory"
    )


def test_what_may_be_made_but_not_be_entered_is_of_no_use(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process is moved by writing into the group that is above where it was and where it goes."""
    skip_without_cgroups()
    own = own_group()
    before = set(own.iterdir())
    with monkeypatch.context() as patch:
        patch.setattr(os, "access", lambda path, mode: (path, mode) != (own / "cgroup.procs", os.W_OK))
        assert why_not(Path("/proc/self")) == f"processes may not be moved out of {own}"
    assert set(own.iterdir()) == before


def test_below_a_threaded_group_there_can_be_no_children(proc: Path) -> None:
    skip_without_cgroups()
    parent = own_group() / f"test-{new_key()}"  # it becomes a threaded domain, which ours must not
    threaded = parent / "threaded"
    threaded.mkdir(parents=True)
    try:
        (threaded / "cgroup.type").write_text("threaded")
        describe(proc, f"/{threaded.name}", mount(parent))
        assert why_not(proc) == f"{threaded} is a threaded control group"
    finally:
        threaded.rmdir()
        parent.rmdir()


# The folder.


def test_it_is_looked_for_once(proc: Path) -> None:
    describe(proc, None)
    folder = CgroupFolder(proc)
    for _ in range(2):
        with pytest.raises(OSError, match=NOT_MOUNTED):
            folder.make("child")
        (proc / "cgroup").unlink(missing_ok=True)
    folder.close()


def test_a_name_that_is_taken_is_refused(folder: CgroupFolder, group: Cgroup) -> None:
    with pytest.raises(OSError, match=r"^no control group can be made in .*: File exists$"):
        folder.make(group.name)


def test_after_it_was_given_up_it_makes_no_more_groups_and_says_why(
    folder: CgroupFolder, group: Cgroup, caplog: pytest.LogCaptureFixture
) -> None:
    folder.give_up(OSError("it is full"))
    folder.give_up(OSError("it is full"))
    with pytest.raises(OSError, match=r"^it is full$"):
        folder.make("next")
    assert Path(group.path).exists(), "there may be children in the others"
    assert [(record.levelno, record.__dict__["error"]) for record in caplog.records] == [
        (logging.WARNING, "it is full")
    ]


def test_a_group_that_could_not_be_removed_is_removed_when_the_next_one_is_made(
    folder: CgroupFolder, group: Cgroup, key: str, popen: Callable[..., "subprocess.Popen[bytes]"]
) -> None:
    process = popen(*command("stubborn"))
    group.adopt(process.pid, key)
    assert not folder.remove(group)
    folder.make("second").remove()
    assert groups_left(folder) == [key]
    process.kill()
    process.wait()
    wait_until_sync(lambda: not group.populated())
    assert folder.remove(folder.make("third"))
    assert groups_left(folder) == []


def emptied(folder: CgroupFolder, name: str) -> Cgroup:
    """Return a group whose child has ended."""
    group = folder.make(name)
    group.kill()
    return group


def test_a_group_that_is_as_it_was_made_is_kept_for_another_child(folder: CgroupFolder) -> None:
    """To make one and to remove it costs the kernel more than all the rest."""
    first = emptied(folder, "first")
    assert not first.populated()
    assert folder.remove(first)
    assert groups_left(folder) == []
    assert folder.make("second") is first
    assert folder.make("third", fresh=True).name == "third"
    assert folder.make("fourth").name == "fourth"


def test_one_that_holds_somebody_again_is_not_taken_for_empty(
    folder: CgroupFolder, key: str, popen: Callable[..., "subprocess.Popen[bytes]"]
) -> None:
    group = emptied(folder, "used")
    process = popen(*command("stubborn"))
    group.adopt(process.pid, key)
    assert group.populated()
    group.kill()
    assert process.wait() == -signal.SIGKILL
    wait_until_sync(lambda: not group.populated())
    assert group.clean
    assert group.remove()


def test_a_group_that_a_child_has_changed_is_not_kept(folder: CgroupFolder) -> None:
    """Who is put into a frozen one stands still."""
    group = folder.make("frozen")
    Path(group.path, "cgroup.freeze").write_text("1")
    wait_until_sync(lambda: "frozen 1" in Path(group.path, "cgroup.events").read_text())
    group.kill()
    assert not group.populated()
    assert folder.remove(group)
    assert not Path(group.path).exists()


def test_groups_that_limit_are_not_kept(folder: CgroupFolder) -> None:
    """The next child may have other limits."""
    limiting = CgroupFolder(controllers=["pids"])
    group = emptied(folder, "limiting")
    assert limiting.remove(group)
    assert not Path(group.path).exists()


def test_no_more_groups_are_kept_than_a_few(folder: CgroupFolder) -> None:
    groups = [folder.make(str(number)) for number in range(SPARE_GROUPS + 1)]
    for group in groups:
        group.kill()
        assert folder.remove(group)
    assert [Path(group.path).exists() for group in groups] == [True] * SPARE_GROUPS + [False]


def test_where_the_groups_are_is_told_before_there_is_one(proc: Path) -> None:
    describe(proc, None)
    nowhere = CgroupFolder(proc)
    assert [nowhere.place(), nowhere.place()] == ["", ""]
    skip_without_cgroups()
    folder = CgroupFolder()
    assert folder.place() == str(path_of(folder))
    folder.close()
    folder.give_up(OSError("it is full"))
    assert folder.place() == ""


def test_the_end_waits_for_those_who_were_killed_and_not_for_ever(
    folder: CgroupFolder,
    group: Cgroup,
    key: str,
    popen: Callable[..., "subprocess.Popen[bytes]"],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    process = popen(*command("stubborn"))
    group.adopt(process.pid, key)
    with monkeypatch.context() as patch:
        patch.setattr(cgroup_module, "CLOSE_TIMEOUT", 0.02)
        folder.close()
    assert is_alive(process.pid)
    group.kill()
    folder.close()
    assert not path_of(folder).exists()


def test_all_threads_of_a_process_share_one_folder_and_a_forked_copy_has_its_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """F36, without forking: what the hooks do."""
    monkeypatch.setattr(cgroup_module, "_default", None)
    monkeypatch.setattr(cgroup_module, "_default_lock", cgroup_module._default_lock)  # noqa: SLF001 - to restore it
    cgroup_module._close_at_exit()  # noqa: SLF001 - no child was started
    first = default_folder()
    assert default_folder() is first
    cgroup_module._forget_after_fork()  # noqa: SLF001 - what this test is about
    assert default_folder() is not first


def test_the_end_of_the_program_removes_the_folder(
    folder: CgroupFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cgroup_module, "_default", folder)
    cgroup_module._close_at_exit()  # noqa: SLF001 - the test cannot end its own process
    assert not path_of(folder).exists()


#: A supervisor of its own: it starts a child in a group inside of its own, and waits.
INNER = """
import asyncio, sys
from stdio_broker.supervisor import Config, start

async def main():
    child = await start(Config(cmd=sys.argv[1:], containment="cgroup"))
    print((await child.stdout.receive()).decode(), flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""


def test_a_program_that_is_a_child_itself_leaves_no_groups_when_it_is_killed(tag: str) -> None:
    """One supervisor in the group of another: the inner one and its warden are killed without notice."""
    skip_without_cgroups()
    result = run(
        """
        async def main():
            child = await ready(await start(Config(cmd=command, inherit_env="all", containment="cgroup")))
            print(await child.stop(eof_grace=0, stop_grace=0))

        asyncio.run(main())
        print(os.getpid())
        """,
        *(sys.executable, "-c", INNER),
        *command("parent", tag, "session", "orphan", "bare"),
    )
    assert result.stdout.startswith("ended by SIGKILL\n"), result.stderr
    assert find_tagged(tag) == set()
    assert not list(own_group().glob(f"stdio-broker-{result.stdout.split()[-1]}-*"))
