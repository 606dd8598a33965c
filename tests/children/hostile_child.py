"""A stdio server that means harm: it tries one thing per line and says how far it came.

    {"id": 1, "method": "read-environment", "params": {"marker": "…"}}

is answered by `{"id": 1, "result": {"done": true}}`, or with `"done": false` and the reason. Every attempt is
bounded: it stops as soon as it has proved its point, and takes back what outlives it. The standard library
only, and nothing at its start that takes long.
"""

import contextlib
import ctypes
import errno
import json
import os
import resource
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

PTRACE_SEIZE, PTRACE_DETACH = 0x4206, 17

#: How much is written where one tries to fill a disk, and in which pieces.
FILL_BYTES, PIECE_BYTES = 8 * 1024 * 1024, 1024 * 1024

#: How many processes are forked where one tries to fork many.
FORKS = 24


class FailedError(Exception):
    """An attempt has failed; the message says at what."""


def _processes(file: str, marker: str) -> Iterator[int]:
    """Find the other processes that have a marker in one of their files in /proc."""
    for entry in os.listdir("/proc"):  # noqa: PTH208 - as the supervisor does
        if entry.isdigit() and int(entry) != os.getpid():
            with contextlib.suppress(OSError):
                if marker.encode() in Path("/proc", entry, file).read_bytes():
                    yield int(entry)


def _victim(victim: int) -> int:
    """Return the number of the victim; outside of a namespace of our own it is what we were told."""
    if not Path(f"/proc/{victim}").exists():
        raise FailedError("there is no such process here")
    return victim


def read_environment(marker: str) -> None:
    """Find a secret in the environment of any other process."""
    if not list(_processes("environ", marker)):
        raise FailedError("no environment that could be read holds it")


def read_arguments(marker: str) -> None:
    """See the command line of another process."""
    if not list(_processes("cmdline", marker)):
        raise FailedError("no such command line is there")


def read_file(path: str) -> None:
    """Read a file of the operator's."""
    Path(path).read_bytes()


def list_folder(path: str) -> None:
    """List a folder of the operator's."""
    os.listdir(path)  # noqa: PTH208 - one system call


def write_file(path: str) -> None:
    """Make a file."""
    with Path(path).open("xb") as file:
        file.write(b"hostile")


def truncate_file(path: str) -> None:
    """Destroy what is in a file."""
    os.truncate(path, 0)


def fill_file(path: str) -> None:
    """Write one big file."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    _fill(Path(path), FILL_BYTES)


def fill_folder(path: str | None = None) -> None:
    """Write many files; into the temporary directory, if no folder is named."""
    folder = Path(path or os.environ.get("TMPDIR", "/tmp"))  # noqa: S108 - that is the point
    made = [folder / f"hostile-{os.getpid()}-{number}" for number in range(FILL_BYTES // PIECE_BYTES)]
    try:
        for file in made:
            _fill(file, PIECE_BYTES)
    finally:
        for file in made:
            file.unlink(missing_ok=True)


def _fill(path: Path, size: int) -> None:
    with path.open("wb", buffering=0) as file:
        for _ in range(size // PIECE_BYTES):
            if file.write(bytes(PIECE_BYTES)) != PIECE_BYTES:
                file.write(b"the rest")  # tells why
                raise FailedError("only a part was written")


def fork_many() -> None:
    """Have many processes at the same time."""
    waiting, go = os.pipe()
    forked = []
    try:
        for _ in range(FORKS):
            pid = os.fork()
            if not pid:
                os.close(go)
                os.read(waiting, 1)
                os._exit(0)
            forked.append(pid)
    finally:
        os.close(go)
        os.close(waiting)
        for pid in forked:
            os.waitpid(pid, 0)


def connect_tcp(port: int) -> None:
    """Connect to a service of this host."""
    socket.create_connection(("127.0.0.1", port), timeout=5).close()


def listen_tcp() -> None:
    """Offer a service on this host."""
    with socket.socket() as own:
        own.bind(("127.0.0.1", 0))


def send_udp(port: int) -> None:
    """Send a datagram to a service of this host."""
    with socket.socket(type=socket.SOCK_DGRAM) as own:
        own.connect(("127.0.0.1", port))
        own.send(b"hostile")
        own.settimeout(5)
        own.recv(16)


def connect_unix(path: str) -> None:
    """Connect to a named Unix socket, such as that of a container engine."""
    with socket.socket(socket.AF_UNIX) as own:
        own.connect(path)


def connect_abstract(name: str) -> None:
    """Connect to an abstract Unix socket, such as that of a desktop."""
    with socket.socket(socket.AF_UNIX) as own:
        own.connect(f"\0{name}")


def signal_process(victim: int) -> None:
    """Signal another process."""
    os.kill(_victim(victim), signal.SIGUSR1)


def trace_process(victim: int) -> None:
    """Trace another process, by which it could be made to do anything."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
    if libc.ptrace(PTRACE_SEIZE, _victim(victim), None, None):
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


def dump_core() -> None:
    """Leave a core dump."""
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_CORE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    pid = os.fork()
    if not pid:
        os.abort()
    if not os.WCOREDUMP(os.waitpid(pid, 0)[1]):
        raise FailedError("it was ended without one")


def raise_limits() -> None:
    """Raise a limit that was set for us."""
    _, hard = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (hard, hard + 4096))


def open_many(count: int) -> None:
    """Open many files."""
    opened = []
    try:
        for _ in range(count):
            opened.append(os.open(os.devnull, os.O_RDONLY))  # noqa: PERF401 - what was opened is closed
    finally:
        for descriptor in opened:
            os.close(descriptor)


def gain_rights() -> None:
    """Gain rights by a set-uid program: whether that is possible stands in our status."""
    if "\nNoNewPrivs:\t1\n" in Path("/proc/self/status").read_text():
        raise FailedError("no_new_privs is set")


def stay_behind(marker: str) -> None:
    """Leave a process behind that is in no group or session of ours, and ignores what can be ignored."""
    report, done = os.pipe()
    pid = os.fork()
    if not pid:
        os.setsid()
        if os.fork():
            os._exit(0)
        for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)
        os.write(done, b"1")
        for standard in (0, 1, 2):
            os.close(standard)
        # With an argument by which a test finds it.
        os.execv(sys.executable, [sys.executable, "-I", "-S", "-c", "import time; time.sleep(300)", marker])  # noqa: S606
    os.waitpid(pid, 0)
    os.read(report, 1)


def flood(amount: int) -> None:
    """Say much on stdout and stderr, in lines and in one without an end."""
    line = b"x" * 1023 + b"\n"
    for descriptor in (1, 2):
        for _ in range(amount // len(line)):
            _write_all(descriptor, line)
        for _ in range(amount // len(line)):
            _write_all(descriptor, b"y" * 1024)
        _write_all(descriptor, b"\n")


def _write_all(descriptor: int, data: bytes) -> None:
    while data:
        data = data[os.write(descriptor, data) :]


ATTEMPTS: dict[str, Callable[..., None]] = {
    name.replace("_", "-"): function
    for name, function in list(globals().items())
    if callable(function) and not name.startswith("_") and getattr(function, "__module__", "") == __name__
}


def answer(line: bytes) -> dict[str, object]:
    """Do what a line asks for and return the answer to it."""
    request = json.loads(line)
    try:
        ATTEMPTS[request["method"]](**request.get("params", {}))
    except OSError as exc:
        code = errno.errorcode.get(exc.errno or 0, "")
        return {"id": request["id"], "result": {"done": False, "why": f"{code} {exc}"}}
    except (FailedError, ValueError) as exc:  # a limit that may not be raised is a ValueError
        return {"id": request["id"], "result": {"done": False, "why": str(exc)}}
    return {"id": request["id"], "result": {"done": True}}


def main() -> None:
    """Serve until stdin is at its end."""
    _write_all(1, b"ready\n")
    for line in sys.stdin.buffer:
        _write_all(1, json.dumps(answer(line)).encode() + b"\n")


if __name__ == "__main__":
    main()
