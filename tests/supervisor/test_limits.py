"""Limits of one child: what is refused, what a real child finds, and what may not be set."""

import dataclasses
import errno
import os
import re
import resource
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from stdio_broker.supervisor import Config, Limits, SpawnError, cgroup, start
from stdio_broker.supervisor import containment as containment_module
from stdio_broker.supervisor import controllers as controllers_module
from stdio_broker.supervisor import limits as limits_module
from stdio_broker.supervisor.cgroup import CgroupFolder, limiting_folder
from stdio_broker.supervisor.controllers import enable, place_with
from stdio_broker.supervisor.limits import apply_limits, apply_limits_to_descendants
from tests.supervisor.cgroups import skip_without_cgroups
from tests.supervisor.children import command, new_tag, start_ready, state_of
from tests.support.processes import descendants_of, find_tagged, wait_until_sync

MIB = 1024 * 1024

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="prlimit(2) and /proc are Linux's")


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    """Return a process that leads a group of its own and waits for its end."""
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE, start_new_session=True) as process:
        yield process
        process.kill()


def _limit(pid: int, which: int) -> tuple[int, int]:
    return resource.prlimit(pid, which)


def _score(pid: int) -> int:
    return int(Path(f"/proc/{pid}/oom_score_adj").read_text())


# Values


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"nofile": 15}, "nofile: expected an integer from 16 to 1073741824, or none, found 15"),
        ({"core_bytes": -1}, "core_bytes: expected an integer from 0"),
        ({"cpu_seconds": 0}, "cpu_seconds: expected an integer from 1"),
        ({"file_bytes": 1}, "file_bytes: expected an integer from 1024"),
        ({"nice": 20}, "nice: expected an integer from -20 to 19, or none, found 20"),
        ({"oom_score_adj": -1}, "oom_score_adj: expected an integer from 0 to 1000, or none, found -1"),
        ({"oom_score_adj": 1001}, "oom_score_adj: expected an integer from 0 to 1000"),
        ({"memory_bytes": 5}, "memory_bytes: expected an integer from 1048576"),
        ({"processes": 0}, "processes: expected an integer from 1"),
        ({"processes": True}, "found True"),
        ({"processes": 1.5}, "found 1.5"),
        ({"nofile": "64"}, "found '64'"),
    ],
)
def test_a_value_out_of_range_is_named(fields: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        Limits(**fields)  # type: ignore[arg-type]


def test_every_field_has_a_range_and_may_be_none() -> None:
    names = {field.name for field in dataclasses.fields(Limits)}
    assert set(limits_module._RANGES) == names  # noqa: SLF001 - a field without one would not be checked
    Limits(**dict.fromkeys(names))


def test_a_config_touches_nothing_by_default() -> None:
    assert Config(cmd=["cat"]).limits is None


@pytest.mark.parametrize("limits", [Limits(memory_bytes=MIB), Limits(processes=5)])
def test_what_takes_a_control_group_goes_only_with_one(limits: Limits) -> None:
    for containment in ("auto", "cgroup"):
        Config(cmd=["cat"], limits=limits, containment=containment)
    for containment in ("group", "shim"):
        with pytest.raises(ValueError, match='containment: expected "auto" or "cgroup" with limits of'):
            Config(cmd=["cat"], limits=limits, containment=containment)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match='orphans: expected "kill" with limits of'):
        Config(cmd=["cat"], limits=limits, orphans="leave")


def test_limits_that_take_no_control_group_go_with_everything() -> None:
    Config(cmd=["cat"], limits=Limits(), containment="shim")
    Config(cmd=["cat"], limits=Limits(), orphans="leave")


def test_what_a_group_limits_is_named_as_the_kernel_does() -> None:
    assert Limits().controllers == frozenset()
    assert Limits(memory_bytes=MIB).controllers == {"memory"}
    assert Limits(processes=7).of_group() == {"pids.max": 7}
    assert Limits(memory_bytes=MIB, processes=7).controllers == {"memory", "pids"}
    # No swap, or a runaway would only die slowly; and all of it at once, or half a server would go on.
    assert Limits(memory_bytes=MIB).of_group() == {
        "memory.max": MIB,
        "memory.swap.max": 0,
        "memory.oom.group": 1,
    }


# A real child


@pytest.mark.parametrize("containment", ["auto", "group", "shim"])
async def test_a_child_has_its_limits_when_it_is_handed_out(containment: str) -> None:
    """Also behind a shim, whose child inherits them before its first instruction."""
    limits = Limits(nofile=64, cpu_seconds=100, file_bytes=MIB, nice=5, oom_score_adj=300)
    ours = _score(os.getpid())
    config = Config(cmd=["cat"], limits=limits, containment=containment)  # type: ignore[arg-type]
    async with await start(config) as child:
        assert child.pid is not None
        for pid in {child.pid} | descendants_of(child.pid):
            assert _limit(pid, resource.RLIMIT_NOFILE) == (64, 64)
            assert max(_limit(pid, resource.RLIMIT_CORE)) <= 1
            assert _limit(pid, resource.RLIMIT_CPU) == (100, 101)
            assert _limit(pid, resource.RLIMIT_FSIZE) == (MIB, MIB)
            assert os.getpriority(os.PRIO_PROCESS, pid) == 5
            assert _score(pid) == min(ours + 300, 1000)


async def test_without_limits_a_child_is_like_us() -> None:
    async with await start(Config(cmd=["cat"])) as child:
        assert child.pid is not None
        for which in (
            resource.RLIMIT_NOFILE,
            resource.RLIMIT_CORE,
            resource.RLIMIT_CPU,
            resource.RLIMIT_FSIZE,
        ):
            assert _limit(child.pid, which) == resource.getrlimit(which)
        assert _score(child.pid) == _score(os.getpid())


async def test_too_big_a_file_ends_a_child() -> None:
    script = 'echo ready; read go; dd if=/dev/zero of="$FILE" bs=4096 count=1000 2>&1; kill -XFSZ $$'
    path = f"/tmp/stdio-broker-test-{uuid4().hex}"  # noqa: S108 - a name that nobody else has
    child = await start_ready(
        Config(cmd=["sh", "-c", script], env={"FILE": path}, limits=Limits(file_bytes=8192))
    )
    try:
        await child.stdin.send(b"go")
        status = await child.wait()
        assert status.signal == signal.SIGXFSZ
        assert Path(path).stat().st_size == 8192
    finally:
        Path(path).unlink()


async def test_a_runaway_is_told_why_it_is_ended() -> None:
    """SIGXCPU, not SIGKILL at once: the exit status then says why."""
    config = Config(cmd=["sh", "-c", "while :; do :; done"], limits=Limits(cpu_seconds=1))
    status = await (await start(config)).wait()
    assert status.signal == signal.SIGXCPU


async def test_a_core_is_not_dumped_where_one_would_be(tmp_path: Path) -> None:
    script = "ulimit -c $(ulimit -Hc); echo ready; read go; kill -SEGV $$"
    _, hard = resource.getrlimit(resource.RLIMIT_CORE)
    if not hard:
        pytest.skip("core dumps are off for good here (ulimit -Hc)")
    for limits, dumped in ((Limits(), False), (None, True)):
        child = await start_ready(Config(cmd=["sh", "-c", script], cwd=tmp_path, limits=limits))
        await child.stdin.send(b"go")
        status = await child.wait()
        assert status.core is dumped


async def test_a_start_whose_limit_cannot_be_set_fails_and_leaves_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(resource, "prlimit", refuse)
    tag = new_tag()
    for containment in ("group", "shim"):
        config = Config(
            cmd=command("stubborn", tag),
            limits=Limits(nofile=64),
            containment=containment,
        )
        with pytest.raises(SpawnError, match="its limit nofile cannot be set to 64: not permitted") as caught:
            await start(config)
        assert type(caught.value) is SpawnError
    wait_until_sync(lambda: not find_tagged(tag), what="end of it")


def test_a_limit_above_our_own_is_refused() -> None:
    """In a broker without rights: root may raise every limit."""
    code = """
        import asyncio, resource
        from stdio_broker.supervisor import Config, Limits, SpawnError, start

        resource.setrlimit(resource.RLIMIT_NOFILE, (500, 500))
        for limits in (Limits(nofile=501), Limits(nice=-1)):
            try:
                asyncio.run(start(Config(cmd=["cat"], limits=limits)))
            except SpawnError as exc:
                print(exc.reason)
    """
    rights = () if os.geteuid() else ("setpriv", "--bounding-set=-all", "--inh-caps=-all", "--")
    result = subprocess.run(
        [*rights, sys.executable, "-W", "error", "-c", textwrap.dedent(code)],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(Path(__file__).parents[2] / "src")},
    )
    # A nice value below ours may be allowed by RLIMIT_NICE, which is 0 by default.
    why = "not permitted: it is beyond our own limit, or the program changes its user"
    assert result.stdout.splitlines() == [
        f"its limit nofile cannot be set to 501: {why}",
        f"its limit nice cannot be set to -1: {why}",
    ], result.stderr


# One process


def test_what_was_forked_meanwhile_is_limited_too() -> None:
    """The program has been running since its exec."""
    with subprocess.Popen(
        ["sh", "-c", "sh -c 'cat; :' <&3 & echo; wait"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
        preexec_fn=lambda: os.dup2(0, 3),  # noqa: PLW1509 - one thread, and a background job has no stdin
        pass_fds=(3,),
    ) as process:
        assert process.stdin is not None
        wait_until_sync(lambda: len(descendants_of(process.pid)) == 2, what="both descendants")
        limits = Limits(nofile=64, nice=7, oom_score_adj=10)
        apply_limits(limits, process.pid)
        apply_limits_to_descendants(limits, process.pid)
        for pid in {process.pid} | descendants_of(process.pid):
            assert _limit(pid, resource.RLIMIT_NOFILE) == (64, 64)
            assert os.getpriority(os.PRIO_PROCESS, pid) == 7
            assert _score(pid) == min(_score(os.getpid()) + 10, 1000)
        process.stdin.close()


def test_who_is_forked_all_the_time_is_not_waited_for(
    sleeper: "subprocess.Popen[bytes]", monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each finds new ones only if those were forked by one that was not limited yet: it ends."""
    families = iter(range(1, 1000))
    limited = []
    monkeypatch.setattr(limits_module, "_family", lambda pid: {pid + next(families)})
    monkeypatch.setattr(limits_module, "_limit", lambda _limits, pid, *_, **__: limited.append(pid))
    apply_limits_to_descendants(Limits(), sleeper.pid)
    assert limited == [sleeper.pid + 1 + number for number in range(limits_module.ROUNDS)]


def test_a_process_that_has_ended_needs_no_limits() -> None:
    """Collected already, because SIGCHLD is ignored; or only just now."""
    with subprocess.Popen(["true"], start_new_session=True) as process:
        process.wait()
        apply_limits(Limits(nofile=64, nice=3), process.pid)


def test_nor_does_one_that_is_not_collected_yet() -> None:
    """It belongs to root then, which looks like a program that changes its user."""
    with subprocess.Popen(["true"], start_new_session=True) as process:
        wait_until_sync(lambda: state_of(process.pid) == "Z", what="zombie")
        apply_limits(Limits(nofile=64, nice=3), process.pid)
        assert limits_module._is_exiting(process.pid)  # noqa: SLF001 - root is not refused
        assert not limits_module._is_exiting(os.getpid())  # noqa: SLF001 - as above
    assert limits_module._is_exiting(process.pid)  # noqa: SLF001 - as above


def test_what_ends_while_its_score_is_set_needs_none(refusing: list[int]) -> None:
    refusing[0] = 1
    with subprocess.Popen(["true"], start_new_session=True) as process:
        wait_until_sync(lambda: state_of(process.pid) == "Z", what="zombie")
        apply_limits(Limits(), process.pid)
    assert refusing[0] == 0


def test_cpu_has_a_second_between_the_signals_where_there_is_room(
    sleeper: "subprocess.Popen[bytes]",
) -> None:
    apply_limits(Limits(cpu_seconds=10), sleeper.pid)
    assert _limit(sleeper.pid, resource.RLIMIT_CPU) == (10, 11)
    resource.prlimit(sleeper.pid, resource.RLIMIT_CPU, (10, 10))
    apply_limits(Limits(cpu_seconds=10), sleeper.pid)
    assert _limit(sleeper.pid, resource.RLIMIT_CPU) == (10, 10)


def test_no_core_is_a_limit_of_one_byte_where_that_may_be_set(sleeper: "subprocess.Popen[bytes]") -> None:
    """With 0 a program that collects cores would still get it: kernel, fs/coredump.c."""
    resource.prlimit(sleeper.pid, resource.RLIMIT_CORE, (10 * MIB, 10 * MIB))
    apply_limits(Limits(core_bytes=4096), sleeper.pid)
    assert _limit(sleeper.pid, resource.RLIMIT_CORE) == (4096, 4096)
    apply_limits(Limits(core_bytes=None), sleeper.pid)
    assert _limit(sleeper.pid, resource.RLIMIT_CORE) == (4096, 4096)
    apply_limits(Limits(core_bytes=0), sleeper.pid)
    assert _limit(sleeper.pid, resource.RLIMIT_CORE) == (1, 1)
    resource.prlimit(sleeper.pid, resource.RLIMIT_CORE, (0, 0))
    apply_limits(Limits(core_bytes=0), sleeper.pid)
    assert _limit(sleeper.pid, resource.RLIMIT_CORE) == (0, 0)


def test_the_score_is_added_to_ours(
    sleeper: "subprocess.Popen[bytes]", monkeypatch: pytest.MonkeyPatch
) -> None:
    """So a child goes first wherever we run; and a child that has ours keeps it."""
    before = _score(sleeper.pid)
    apply_limits(Limits(oom_score_adj=0), sleeper.pid)
    apply_limits(Limits(oom_score_adj=None), sleeper.pid)
    assert _score(sleeper.pid) == before
    apply_limits(Limits(oom_score_adj=1000), sleeper.pid)
    assert _score(sleeper.pid) == 1000
    # Twice is not double: what was forked since inherits it.
    apply_limits(Limits(oom_score_adj=1000), sleeper.pid)
    assert _score(sleeper.pid) == 1000


def test_a_priority_that_may_not_be_set_is_named(
    sleeper: "subprocess.Popen[bytes]", monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(os, "setpriority", refuse)
    with pytest.raises(OSError, match="its limit nice cannot be set to -5: not permitted") as caught:
        apply_limits(Limits(nice=-5), sleeper.pid)
    assert caught.value.errno is None


def test_another_error_is_told_as_the_system_tells_it(
    sleeper: "subprocess.Popen[bytes]", monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr(resource, "prlimit", refuse)
    with pytest.raises(OSError, match="its limit core_bytes cannot be set to 0: Function not implemented"):
        apply_limits(Limits(), sleeper.pid)


@pytest.fixture
def refusing(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Let a score be refused as long as the list says; return how often that shall be, as its only item."""
    left = [0]
    real = limits_module._write  # noqa: SLF001 - root is not refused

    def write(path: str, data: bytes) -> None:
        if path.endswith("/oom_score_adj") and left[0]:
            left[0] -= 1
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        real(path, data)

    monkeypatch.setattr(limits_module, "_write", write)
    return left


def test_a_descendant_that_changes_its_rights_gets_the_time_for_it(
    sleeper: "subprocess.Popen[bytes]", refusing: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The inner process of bwrap belongs to root for a moment."""
    refusing[0] = 3
    leader = sleeper.pid
    monkeypatch.setattr(limits_module, "_family", lambda _pid: {leader})
    apply_limits_to_descendants(Limits(oom_score_adj=50), os.getpgid(os.getppid()))
    assert refusing[0] == 0
    assert _score(leader) == min(_score(os.getpid()) + 50, 1000)


def test_but_not_for_ever(
    sleeper: "subprocess.Popen[bytes]", refusing: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    refusing[0] = 1_000_000
    leader = sleeper.pid
    monkeypatch.setattr(limits_module, "PERMISSION_TIMEOUT", 0.01)
    monkeypatch.setattr(limits_module, "_family", lambda _pid: {leader})
    with pytest.raises(OSError, match="its limit oom_score_adj cannot be set to"):
        apply_limits_to_descendants(Limits(oom_score_adj=50), leader + 1)


def test_the_program_itself_gets_no_time(sleeper: "subprocess.Popen[bytes]", refusing: list[int]) -> None:
    """A set-uid program stays another user's."""
    refusing[0] = 1_000_000
    with pytest.raises(OSError, match="or the program changes its user"):
        apply_limits(Limits(oom_score_adj=50), sleeper.pid)
    assert refusing[0] == 999_999


def test_elsewhere_only_the_priority_can_be_set(
    sleeper: "subprocess.Popen[bytes]", monkeypatch: pytest.MonkeyPatch
) -> None:
    """The defaults are left out; what was asked for is an error."""
    monkeypatch.setattr(sys, "platform", "darwin")
    before = _score(sleeper.pid)
    apply_limits(Limits(nice=9), sleeper.pid)
    assert os.getpriority(os.PRIO_PROCESS, sleeper.pid) == 9
    assert _score(sleeper.pid) == before
    apply_limits(Limits(core_bytes=None, oom_score_adj=None), sleeper.pid)
    apply_limits_to_descendants(Limits(nofile=64), sleeper.pid)
    with pytest.raises(OSError, match="its limit nofile cannot be set to 64: that needs Linux"):
        apply_limits(Limits(nofile=64), sleeper.pid)


# Control groups that limit


class Kernel:
    """A tree of control groups, made of plain files: the kernel here may have no controllers."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.proc = root / "proc"
        self.mount = root / "mount"
        self.own = self.mount / "unit" / "broker"
        self.own.mkdir(parents=True)
        self.proc.mkdir()
        (self.proc / "cgroup").write_text("0::/unit/broker\n")
        (self.proc / "mountinfo").write_text(f"1 1 0:1 / {self.mount} rw - cgroup2 cgroup2 rw\n")
        for group in (self.own, self.own.parent):
            self.fill(group)

    @staticmethod
    def fill(group: Path, controllers: str = "cpu memory pids\n") -> None:
        """Make the files of a group."""
        for name, text in (
            ("cgroup.controllers", controllers),
            ("cgroup.subtree_control", ""),
            ("cgroup.procs", ""),
            ("cgroup.kill", ""),
            ("cgroup.type", "domain\n"),
        ):
            (group / name).write_text(text)


@pytest.fixture
def kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Kernel:
    """Return a kernel whose new groups have the files of one."""
    made = Kernel(tmp_path)
    make = cgroup._make

    def filled(folder: Path, name: str) -> cgroup.Cgroup:
        group = make(folder, name)
        made.fill(Path(group.path))
        for limit in ("memory.max", "memory.swap.max", "memory.oom.group", "pids.max"):
            Path(group.path, limit).write_text("")
        return group

    monkeypatch.setattr(cgroup, "_make", filled)
    return made


def _delegate(monkeypatch: pytest.MonkeyPatch, *groups: Path) -> None:
    def mark(path: Path, name: str) -> bytes:
        if path in groups and name == "trusted.delegate":
            return b"1"
        raise OSError(errno.ENODATA, os.strerror(errno.ENODATA))

    monkeypatch.setattr(os, "getxattr", mark)


def _busy(monkeypatch: pytest.MonkeyPatch, group: Path, code: int = errno.EBUSY) -> None:
    """Refuse what the kernel refuses where processes are."""
    write = Path.write_text

    def refuse(path: Path, text: str) -> int:
        if path == group / "cgroup.subtree_control":
            raise OSError(code, os.strerror(code))
        return write(path, text)

    monkeypatch.setattr(Path, "write_text", refuse)


def test_groups_that_limit_are_made_in_our_own_where_that_is_possible(kernel: Kernel) -> None:
    """In the root of all, which alone may have processes and groups that are limited."""
    folder = CgroupFolder(kernel.proc, controllers={"memory", "pids"})
    group = folder.make("child", limits=Limits(memory_bytes=MIB, processes=7).of_group())
    assert Path(group.path).parent.parent == kernel.own
    for above in (kernel.own, Path(group.path).parent):
        assert (above / "cgroup.subtree_control").read_text() == "+memory +pids"
    found = {
        name: Path(group.path, name).read_text() for name in ("memory.max", "memory.swap.max", "pids.max")
    }
    assert found == {"memory.max": str(MIB), "memory.swap.max": "0", "pids.max": "7"}


def test_else_next_to_it_where_that_is_delegated(kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    """Kernel: "no internal processes"; systemd: Delegate=yes with DelegateSubgroup=."""
    _delegate(monkeypatch, kernel.own.parent)
    _busy(monkeypatch, kernel.own)
    group = CgroupFolder(kernel.proc, controllers={"pids"}).make("child", limits={"pids.max": 3})
    assert Path(group.path).parent.parent == kernel.own.parent
    assert Path(group.path, "pids.max").read_text() == "3"


def test_what_is_not_delegated_is_left_alone(kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    _delegate(monkeypatch)
    _busy(monkeypatch, kernel.own)
    with pytest.raises(
        OSError, match=r"processes are in it\. A systemd unit gets one by Delegate=yes"
    ) as caught:
        CgroupFolder(kernel.proc, controllers={"pids"}).make("child")
    assert caught.value.errno is None
    assert str(kernel.own) in str(caught.value)
    assert (kernel.own.parent / "cgroup.subtree_control").read_text() == ""


def test_a_controller_that_is_missing_is_named(kernel: Kernel) -> None:
    kernel.fill(kernel.own, "hugetlb\n")
    with pytest.raises(OSError, match="has no controller memory, pids") as caught:
        place_with(kernel.own, {"pids", "memory"})
    assert caught.value.errno is None


def test_a_group_that_may_not_be_changed_is_named(kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    _busy(monkeypatch, kernel.own, errno.EACCES)
    with pytest.raises(OSError, match="cannot give controllers to groups in it: Permission denied") as caught:
        enable(kernel.own, {"pids"})
    assert caught.value.errno is None


def test_a_system_without_such_marks_has_delegated_nothing(
    kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    _delegate(monkeypatch, kernel.own)
    assert controllers_module._is_delegated(kernel.own)  # noqa: SLF001 - the answer decides who is touched
    assert not controllers_module._is_delegated(kernel.own.parent)  # noqa: SLF001 - as above


def test_a_kernel_that_counts_no_swap_limits_none(kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = CgroupFolder(kernel.proc, controllers={"memory"})
    real = cgroup._make

    def without_swap(folder: Path, name: str) -> cgroup.Cgroup:
        group = real(folder, name)
        Path(group.path, "memory.swap.max").unlink()
        return group

    monkeypatch.setattr(cgroup, "_make", without_swap)
    group = folder.make("child", limits=Limits(memory_bytes=MIB).of_group())
    assert Path(group.path, "memory.oom.group").read_text() == "1"


def test_a_limit_that_a_group_has_not_is_named_and_the_group_removed(
    kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = CgroupFolder(kernel.proc, controllers={"pids"})
    removed = []
    monkeypatch.setattr(cgroup.Cgroup, "remove", lambda self: removed.append(self.name))
    with pytest.raises(OSError, match=r"its no.such cannot be set to 1: No such file or directory") as caught:
        folder.make("child", limits={"no.such": 1})
    assert caught.value.errno is None
    assert removed == ["child"]


@pytest.mark.parametrize("containment", ["auto", "cgroup"])
async def test_a_child_without_the_group_that_its_limits_take_is_not_started(
    containment: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Never silently without, though "auto" does without a group otherwise."""
    folder = CgroupFolder(tmp_path, controllers={"pids"})
    monkeypatch.setattr(containment_module, "limiting_folder", lambda _controllers: folder)
    config = Config(cmd=["cat"], limits=Limits(processes=8), containment=containment)  # type: ignore[arg-type]
    with pytest.raises(SpawnError, match="this system does not tell its control groups"):
        await start(config)


async def test_nor_one_that_cannot_be_put_into_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    skip_without_cgroups()
    folder = CgroupFolder()

    def refuse(*_: object) -> bool:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(containment_module, "limiting_folder", lambda _controllers: folder)
    monkeypatch.setattr(cgroup.Cgroup, "limit", lambda *_: None)
    monkeypatch.setattr(cgroup.Cgroup, "adopt", refuse)
    try:
        with pytest.raises(SpawnError, match="it cannot be put into its control group"):
            await start(Config(cmd=["cat"], limits=Limits(processes=8)))
    finally:
        folder.close()


async def test_a_real_child_cannot_fork_more_than_it_may() -> None:
    """Where the kernel gives us the controller: not on a machine whose controllers are all of version 1."""
    try:
        limiting_folder(frozenset({"pids"})).make(f"test-{uuid4().hex}").remove()
    except OSError as exc:
        pytest.skip(str(exc))
    script = "echo ready; read go; for i in 1 2 3 4 5 6 7 8; do sleep 5 & done; wait"  # pragma: no cover
    limits = Limits(processes=4)  # pragma: no cover
    child = await start_ready(Config(cmd=["sh", "-c", script], limits=limits))  # pragma: no cover
    await child.stdin.send(b"go")  # pragma: no cover
    status = await child.wait()  # pragma: no cover
    assert status.code != 0  # pragma: no cover
    assert any("fork" in line for line in child.stderr_tail)  # pragma: no cover


def test_each_set_of_controllers_has_one_folder_and_a_forked_copy_has_its_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(cgroup, "_limiting", {})
    monkeypatch.setattr(cgroup, "_default", None)
    monkeypatch.setattr(cgroup, "_default_lock", cgroup._default_lock)  # noqa: SLF001 - to restore it
    first = limiting_folder(frozenset({"pids"}))
    assert limiting_folder(frozenset({"pids"})) is first
    assert limiting_folder(frozenset({"memory"})) is not first
    cgroup._forget_after_fork()  # noqa: SLF001 - what a fork does
    assert limiting_folder(frozenset({"pids"})) is not first


def test_the_end_of_the_program_removes_all_folders(kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = CgroupFolder(kernel.proc, controllers={"pids"})
    closed = []
    monkeypatch.setattr(CgroupFolder, "close", lambda self: closed.append(self))  # noqa: PLW0108 - a method
    monkeypatch.setattr(cgroup, "_limiting", {frozenset({"pids"}): folder})
    monkeypatch.setattr(cgroup, "_default", None)
    cgroup._close_at_exit()  # noqa: SLF001 - what the end of the program does
    assert closed == [folder]
