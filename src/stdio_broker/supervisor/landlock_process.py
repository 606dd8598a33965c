"""Confine this process with Landlock, then become the command.

    python -I -S -E landlock_process.py [--read PATH | --write PATH]… [--tmpdir] [--no-network] -- COMMAND…

The process stays the same, and so do its pipes, environment, directory and signals. From then on it
and all its descendants can read and execute below the `--read` paths, do everything below the `--write`
paths, and reach nothing else in the file system; `--tmpdir` allows to write below $TMPDIR. They cannot
signal or trace who is not confined with them, reach abstract sockets of others, gain rights by executing
a set-uid program, and have none of root's rights even if they are root. With `--no-network` they cannot
connect or bind TCP sockets; UDP and named Unix sockets are not Landlock's.

A kernel that can do less than that is refused, as is a path that is not there: the command is then not
run, stderr says why, and the exit code is `REFUSED`.

The standard library only, Linux only. Source: landlock(7), landlock_create_ruleset(2),
landlock_add_rule(2), landlock_restrict_self(2), capset(2); <linux/landlock.h>.
"""

import ctypes
import errno
import os
import signal
import stat
import struct
import sys
from collections.abc import Callable, Iterable

__all__ = ["ABI", "REFUSED", "Rules", "confine", "main", "parse", "system_call"]

#: The least that we take, of Linux 6.12: with 3 it does not stop truncation, with 5 no signals.
ABI = 6

#: Exit code of a command that was not run; shells use it for what cannot be executed.
REFUSED = 126

#: Numbers of the system calls: the same on all of Linux's architectures but alpha.
CREATE_RULESET, ADD_RULE, RESTRICT_SELF = 444, 445, 446

GIVE_VERSION = 1
RULE_PATH_BENEATH = 1
PR_SET_NO_NEW_PRIVS = 38
CAPABILITIES_V3 = 0x20080522

EXECUTE, WRITE_FILE, READ_FILE, READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
MAKE_CHAR, MAKE_BLOCK = 1 << 6, 1 << 11
TRUNCATE, IOCTL_DEV = 1 << 14, 1 << 15
#: All 16 that there are since ABI 5.
EVERYTHING = (1 << 16) - 1

READ = EXECUTE | READ_FILE | READ_DIR
WRITE = EVERYTHING & ~(MAKE_CHAR | MAKE_BLOCK | IOCTL_DEV)
DEVICE = READ_FILE | WRITE_FILE | IOCTL_DEV
#: Those that a rule on a file can have; with others the kernel refuses it.
OF_FILES = EXECUTE | WRITE_FILE | READ_FILE | TRUNCATE | IOCTL_DEV

BIND_TCP, CONNECT_TCP = 1 << 0, 1 << 1
SCOPE_ABSTRACT_SOCKETS, SCOPE_SIGNALS = 1 << 0, 1 << 1

#: What every program may count on, and nobody can do harm with.
DEVICES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom")

#: What Python ignores, and a program expects not to be.
IGNORED = (signal.SIGPIPE, signal.SIGXFSZ)


class Rules:
    """What the command may do.

    No dataclass: to import those costs a third of our whole time.

    Args:
        read: Paths that it may read and execute.
        write: Paths that it may change.
        network: Whether it may use TCP.
    """

    def __init__(self, read: Iterable[str] = (), write: Iterable[str] = (), *, network: bool = True) -> None:
        self.read = list(read)
        self.write = list(write)
        self.network = network


def parse(arguments: list[str]) -> tuple[Rules, list[str]]:
    """Return the rules, and the command.

    Raises:
        ValueError: They are not the arguments that the module's docstring names.
    """
    rules = Rules()
    rest = iter(arguments)
    for word in rest:
        if word == "--":
            return rules, list(rest)
        if word == "--no-network":
            rules.network = False
        elif word == "--tmpdir":
            rules.write.append(os.environ["TMPDIR"])
        elif word in {"--read", "--write"}:
            (rules.read if word == "--read" else rules.write).append(next(rest, ""))
        else:
            raise ValueError(f"expected an option or --, found {word!r}")
    raise ValueError("expected -- before the command, found none")


def system_call(number: int, *arguments: object) -> int:
    """Make a system call.

    Raises:
        OSError: It failed.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    return _checked(libc.syscall(ctypes.c_long(number), *arguments))


def _checked(result: int) -> int:
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result


def confine(rules: Rules, call: Callable[..., int] = system_call) -> int:
    """Make a ruleset; return its descriptor.

    Raises:
        OSError: The kernel gives less than is asked for, or a path is not there; the message says what.
    """
    try:
        abi = call(CREATE_RULESET, None, ctypes.c_size_t(0), GIVE_VERSION)
    except OSError as exc:
        if exc.errno not in {errno.ENOSYS, errno.EOPNOTSUPP}:
            raise
        raise OSError(f"expected a kernel with Landlock {ABI} (Linux 6.12), found none") from exc
    if abi < ABI:
        raise OSError(f"expected a kernel with Landlock {ABI} (Linux 6.12), found {abi}")
    handled = struct.pack(
        "=QQQ",
        EVERYTHING,
        0 if rules.network else BIND_TCP | CONNECT_TCP,
        SCOPE_ABSTRACT_SOCKETS | SCOPE_SIGNALS,
    )
    ruleset = call(CREATE_RULESET, handled, ctypes.c_size_t(len(handled)), 0)
    for paths, access in ((rules.read, READ), (rules.write, WRITE), (DEVICES, DEVICE)):
        for path in paths:
            _allow(ruleset, path, access, call)
    return ruleset


def _allow(ruleset: int, path: str, access: int, call: Callable[..., int]) -> None:
    try:
        descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError as exc:
        raise OSError(f"cannot open {path!r}: {exc.strerror}") from exc
    try:
        if not stat.S_ISDIR(os.fstat(descriptor).st_mode):
            access &= OF_FILES
        call(ADD_RULE, ruleset, RULE_PATH_BENEATH, struct.pack("=Qi", access, descriptor), 0)
    finally:
        os.close(descriptor)


def enter(ruleset: int) -> None:  # pragma: no cover - confines who calls it; real children prove it
    """Put this process under the ruleset, and give up all rights of root, for good.

    Raises:
        OSError: The kernel refused.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    _checked(libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
    system_call(RESTRICT_SELF, ruleset, 0)
    # Under no_new_privs an exec gives nothing back, to root neither.
    _checked(libc.capset(struct.pack("=Ii", CAPABILITIES_V3, 0), bytes(24)))


def execute(argv: list[str]) -> None:  # pragma: no cover - becomes another program, as above
    """Become the command.

    Raises:
        OSError: The system refused.
    """
    environment = _initial_environment()
    for number in IGNORED:
        signal.signal(number, signal.SIG_DFL)
    os.execve(argv[0], argv, environment)  # noqa: S606 - that is the command


def _initial_environment() -> dict[bytes, bytes]:  # pragma: no cover - as above
    """Return the environment that we were started with; Python may have set LC_CTYPE since."""
    with open("/proc/self/environ", "rb") as file:  # noqa: PTH123 - no further import
        pairs = (variable.partition(b"=") for variable in file.read().split(b"\0") if variable)
        return {name: value for name, _, value in pairs}


def main(arguments: list[str]) -> int:
    """Confine this process and become the command; return only if that cannot be."""
    rules, argv = parse(arguments)
    try:
        enter(confine(rules))
    except OSError as exc:
        return _refuse(f"cannot confine the command by Landlock: {exc}")
    try:
        execute(argv)
    except OSError as exc:
        return _refuse(
            f"cannot execute {argv[0]!r}, or what it names behind #!: {exc.strerror}; may it be read?"
        )
    raise AssertionError("unreachable: an exec returns only by an error")


def _refuse(why: str) -> int:
    sys.stderr.write(f"stdio-broker: {why}\n")
    return REFUSED


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
