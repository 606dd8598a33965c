"""The launcher that confines by Landlock: rules and refusals. Real children are in `test_isolation`."""

import errno
import os
import re
import stat
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from stdio_broker.supervisor import landlock_process
from stdio_broker.supervisor.landlock_process import ABI, REFUSED, Rules, confine, main, parse, system_call

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="Landlock is Linux's")


class Kernel:
    """What a kernel would answer, and what it was asked."""

    def __init__(self, abi: int = ABI, error: int | None = None) -> None:
        self.abi = abi
        self.error = error
        self.handled: tuple[int, ...] = ()
        self.allowed: dict[str, int] = {}

    def call(self, number: int, *arguments: object) -> int:
        """Make a system call."""
        if self.error is not None:
            raise OSError(self.error, os.strerror(self.error))
        if number == landlock_process.CREATE_RULESET and arguments[0] is None:
            assert arguments[2] == landlock_process.GIVE_VERSION
            return self.abi
        if number == landlock_process.CREATE_RULESET:
            assert isinstance(arguments[0], bytes)
            self.handled = struct.unpack("=QQQ", arguments[0])
            return 77
        assert number == landlock_process.ADD_RULE
        assert arguments[:2] == (77, landlock_process.RULE_PATH_BENEATH)
        assert isinstance(arguments[2], bytes)
        access, descriptor = struct.unpack("=Qi", arguments[2])
        # As the kernel does: EINVAL for what a file cannot have.
        if not stat.S_ISDIR(os.fstat(descriptor).st_mode):
            assert not access & ~landlock_process.OF_FILES
        self.allowed[str(Path(f"/proc/self/fd/{descriptor}").readlink())] = access
        return 0


def test_arguments_are_rules_and_a_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", "/a/tmp")
    words = [*("--read", "/r", "--write", "/w", "--no-network", "--read", "/s"), "--tmpdir", "--"]
    rules, argv = parse([*words, "cmd", "--read", "--", "x"])
    assert (rules.read, rules.write, rules.network) == (["/r", "/s"], ["/w", "/a/tmp"], False)
    assert argv == ["cmd", "--read", "--", "x"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--read", "/r"], "expected -- before the command, found none"),
        (["--raed", "/r", "--", "cmd"], "expected an option or --, found '--raed'"),
    ],
)
def test_a_mistake_in_the_arguments_starts_nothing(words: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        parse(words)


def test_everything_is_handled_and_little_is_allowed(tmp_path: Path) -> None:
    """<linux/landlock.h>, ABI 6: 16 rights on files, 2 on TCP, 2 scopes."""
    kernel = Kernel()
    readable = tmp_path / "readable"
    readable.write_text("")
    assert (
        confine(Rules(read=["/usr", str(readable)], write=[str(tmp_path)], network=False), kernel.call) == 77
    )
    assert kernel.handled == (0xFFFF, 0b11, 0b11)
    devices = {path: kernel.allowed.pop(path) for path in landlock_process.DEVICES}
    assert set(devices.values()) == {0b1000_0000_0000_0110}
    assert kernel.allowed == {
        "/usr": 0b1101,
        str(readable): 0b0101,
        # All but to make devices, and to control them.
        str(tmp_path): 0b0111_0111_1011_1111,
    }


def test_with_a_network_tcp_is_not_handled() -> None:
    kernel = Kernel()
    confine(Rules(), kernel.call)
    assert kernel.handled == (0xFFFF, 0, 0b11)


@pytest.mark.parametrize("abi", range(1, ABI))
def test_an_older_kernel_is_refused(abi: int) -> None:
    with pytest.raises(OSError, match=f"expected a kernel with Landlock 6 .* found {abi}"):
        confine(Rules(), Kernel(abi).call)


@pytest.mark.parametrize("code", [errno.ENOSYS, errno.EOPNOTSUPP])
def test_a_kernel_without_it_is_refused(code: int) -> None:
    with pytest.raises(OSError, match="found none"):
        confine(Rules(), Kernel(error=code).call)


def test_any_other_error_is_told_as_it_is() -> None:
    """A seccomp filter, for one."""
    with pytest.raises(PermissionError):
        confine(Rules(), Kernel(error=errno.EPERM).call)


def test_a_path_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=re.escape(f"cannot open '{tmp_path}/none': No such file")):
        confine(Rules(read=[f"{tmp_path}/none"]), Kernel().call)


def test_an_error_of_a_system_call_is_an_error() -> None:
    assert landlock_process._checked(3) == 3  # noqa: SLF001 - what a call returns that succeeds
    with pytest.raises(OSError, match=os.strerror(errno.EBADF)):
        system_call(landlock_process.ADD_RULE, -1, 1, b"", 0)


def test_what_cannot_be_confined_is_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(_ruleset: int) -> None:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(landlock_process, "confine", lambda _rules: 7)
    monkeypatch.setattr(landlock_process, "enter", refuse)
    monkeypatch.setattr(landlock_process, "execute", lambda _argv: pytest.fail("it was run"))
    assert main(["--", "cmd"]) == REFUSED
    assert "cannot confine the command by Landlock: [Errno 1]" in capsys.readouterr().err


def test_what_cannot_be_executed_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(_argv: list[str]) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    entered: list[int] = []
    monkeypatch.setattr(landlock_process, "confine", lambda _rules: 7)
    monkeypatch.setattr(landlock_process, "enter", entered.append)
    monkeypatch.setattr(landlock_process, "execute", refuse)
    assert main(["--", "/a/cmd", "secret argument"]) == REFUSED
    assert entered == [7]
    error = capsys.readouterr().err
    assert "cannot execute '/a/cmd', or what it names behind #!: Permission denied; may it be read?" in error
    assert "secret" not in error


def test_an_exec_that_returns_would_be_a_bug(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(landlock_process, "confine", lambda _rules: 7)
    monkeypatch.setattr(landlock_process, "enter", lambda _ruleset: None)
    monkeypatch.setattr(landlock_process, "execute", lambda _argv: None)
    with pytest.raises(AssertionError, match="unreachable"):
        main(["--", "cmd"])


def test_the_launcher_imports_nothing_of_ours() -> None:
    """It starts in milliseconds, in an interpreter without site-packages, and never fails on an import."""
    result = subprocess.run(
        [sys.executable, "-I", "-S", "-E", "-X", "importtime", landlock_process.__file__, "--wrong"],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert "ValueError: expected an option" in result.stderr
    for module in ("stdio_broker", "asyncio", "subprocess", "socket"):
        assert not re.search(rf"\| +{module}\b", result.stderr)
