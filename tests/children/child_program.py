# ruff: noqa: PTH109, PTH123, PTH208 - pathlib would slow down every start of this program
"""A program with many ways to behave, for the tests of the supervisor.

    python -I -S child_program.py MODE [ARGUMENT…]

Every mode that lives on prints `ready` first, when its signal handlers are in place. It must start
fast, so it imports what most modes do not need (contextlib and typing, too) only where they do.
Some take a tag that they do not look at: by it a test finds the process.
"""

import os
import signal
import sys
import time

PYTHON = (sys.executable, "-I", "-S", __file__)
LINE = b"0123456789abcde\n"


def say(text: str) -> None:
    os.write(1, os.fsencode(text) + b"\n")


def complain(text: str) -> None:
    os.write(2, text.encode() + b"\n")


def wait_for_eof() -> None:
    while os.read(0, 65536):
        pass


def sleep_for_ever() -> None:
    # Not `time.sleep`: a signal right before it would be handled after it.
    ours, woken = os.pipe()
    os.set_blocking(woken, False)
    signal.set_wakeup_fd(woken)
    while True:
        os.read(ours, 1)


def be_stubborn() -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def start(mode: str, *arguments: str, new_session: bool = False) -> int:
    """Start this program again, as a child of itself; return its pid."""
    pid = os.fork()
    if pid == 0:
        if new_session:
            os.setsid()
        os.execv(PYTHON[0], [*PYTHON, mode, *arguments])  # noqa: S606 - no shell is wanted
    return pid


# Ways to end.


def polite(*_: str) -> None:
    """Exit at EOF; record every signal."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCONT):
        signal.signal(number, lambda number, _: complain(f"got {signal.Signals(number).name}"))
    say("ready")
    wait_for_eof()
    complain("got EOF")


def recording() -> None:
    """Exit at EOF, and tell then which signals ever came: blocked, not one of them gets lost."""
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    say("ready")
    wait_for_eof()
    complain("signals: " + " ".join(str(int(number)) for number in sorted(signal.sigpending())))


def deaf(*_: str) -> None:
    """Ignore EOF, end by SIGTERM."""
    say("ready")
    sleep_for_ever()


def graceful() -> None:
    """Ignore EOF, exit with a code at SIGTERM."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(7))
    say("ready")
    sleep_for_ever()


def stubborn(*_: str) -> None:
    """Ignore EOF and SIGTERM."""
    be_stubborn()
    say("ready")
    sleep_for_ever()


def noting_stubborn() -> None:
    """Ignore EOF and SIGTERM, but say so."""
    signal.signal(signal.SIGTERM, lambda *_: complain("got SIGTERM"))
    say("ready")
    sleep_for_ever()


def foreign(*_: str) -> None:
    """Become, in a copy of Python that is set-uid, wholly another user's, who was not asked for signals."""
    user = os.geteuid()
    os.setresuid(user, user, user)
    say("ready")
    sleep_for_ever()


def leave(code: str) -> None:
    sys.exit(int(code))


def die(number: str) -> None:
    """End by a signal."""
    os.kill(os.getpid(), int(number))
    sleep_for_ever()


def leave_at_eof(code: str) -> None:
    say("ready")
    wait_for_eof()
    sys.exit(int(code))


def zombie_leader() -> None:
    """End the main thread: /proc says that the process is a zombie, yet it runs until EOF."""
    import ctypes  # noqa: PLC0415
    import threading  # noqa: PLC0415

    def rest() -> None:
        # Only now: what is written before could be read while the main thread still runs.
        while b"Z (zombie)" not in status():
            time.sleep(0.001)
        say("ready")
        wait_for_eof()
        os._exit(3)

    def status() -> bytes:
        with open(f"/proc/{os.getpid()}/status", "rb") as file:
            return file.read()

    threading.Thread(target=rest).start()
    ctypes.CDLL(None).pthread_exit(None)


# What a child has been given.


def environment() -> None:
    for name, value in sorted(os.environ.items()):
        say(f"{name}={value}")


def arguments(*values: str) -> None:
    for value in values:
        say(value)


def directory() -> None:
    say(os.getcwd())


def descriptors() -> None:
    """Print the open descriptors."""
    found = []
    for fd in sorted(map(int, os.listdir("/proc/self/fd"))):
        try:
            os.fstat(fd)
        except OSError:
            continue  # it was the one that listed them
        found.append(str(fd))
    say(" ".join(found))


def limits() -> None:
    """Print the soft limit on descriptors, when asked to: it is lowered after the start."""
    import resource  # noqa: PLC0415

    os.read(0, 1)
    say(str(resource.getrlimit(resource.RLIMIT_NOFILE)[0]))


# Input and output.


def echo(*_: str) -> None:
    say("ready")
    for line in sys.stdin.buffer:
        sys.stdout.buffer.write(line)
        sys.stdout.buffer.flush()


def count() -> None:
    """Read everything; then print how much it was."""
    say("ready")
    total = 0
    while data := os.read(0, 65536):
        total += len(data)
    say(str(total))


def write(fd: str, amount: str) -> None:
    """Write an amount of lines, in bytes, as fast as the pipe lets it; then wait for EOF."""
    left = int(amount)
    while left > 0:
        left -= os.write(int(fd), LINE * 4096)
    wait_for_eof()


def write_one_line(fd: str, amount: str) -> None:
    """Write one long line and a short one, and exit."""
    left = int(amount)
    while left > 0:
        left -= os.write(int(fd), b"x" * min(left, 65536))
    os.write(int(fd), b"\nnext\n")


def say_bytes(fd: str, *texts: str) -> None:
    """Write each text in a write of its own, with its escapes, and exit at once."""
    for text in texts:
        os.write(int(fd), text.encode("ascii").decode("unicode_escape").encode("latin-1"))
    os._exit(0)


def burst(lines: str) -> None:
    """Write many lines to stderr and end at once."""
    os.set_blocking(2, True)
    text = "".join(f"line {number}\n" for number in range(int(lines))).encode()
    while text:
        text = text[os.write(2, text) :]
    os._exit(0)


def close_stdout() -> None:
    say("ready")
    os.close(1)
    wait_for_eof()


def close_stdin() -> None:
    """Close stdin when something arrives, and live on."""
    say("ready")
    os.read(0, 1)
    os.close(0)
    say("closed")
    sleep_for_ever()


def close_everything() -> None:
    say("ready")
    for fd in (0, 1, 2):
        os.close(fd)
    sleep_for_ever()


def deadlock() -> None:
    """Write more than anybody reads, and read nothing before."""
    say("ready")
    write("1", str(2_000_000))


# Descendants. Their first argument is a tag, by which a test finds them.


def wrapper(tag: str, mode: str) -> None:
    """Be what npx and `sh -c` are: wait for a child that has our pipes."""
    os.waitpid(start(mode, tag), 0)


def leaving_wrapper(tag: str) -> None:
    """Exit at EOF, and leave a child in the group."""
    start("member", tag)
    wait_for_eof()


def member(tag: str) -> None:
    """Live on in the group of a wrapper."""
    be_stubborn()
    say(f"ready {os.getpid()}")
    sleep_for_ever()


def deaf_member(tag: str) -> None:
    say(f"ready {os.getpid()}")
    sleep_for_ever()


def escaping_wrapper(tag: str) -> None:
    """Leave a descendant in a session of its own, which holds our pipes."""
    start("member", tag, new_session=True)
    wait_for_eof()


def daemon(tag: str) -> None:
    """Leave a descendant that nobody in the group is the parent of: forked twice, in a session of its own."""
    if os.fork() == 0:
        os.setsid()
        start("member", tag)
        os._exit(0)
    os.wait()
    wait_for_eof()


def parent(tag: str, *traits: str) -> None:
    """Leave a descendant, which may be in a "session" of its own, an "orphan", "bare" of our environment."""
    pid = os.fork()
    if pid == 0:
        if "session" in traits:
            os.setsid()
        if "orphan" in traits and os.fork():
            os._exit(0)
        env = {} if "bare" in traits else dict(os.environ)
        os.execve(PYTHON[0], [*PYTHON, "member", tag], env)  # noqa: S606 - no shell is wanted
    if "orphan" in traits:
        os.waitpid(pid, 0)
    wait_for_eof()


def hydra(tag: str) -> None:
    """Leave a daemon that becomes another one every 2 ms, with a new number and session, for a minute."""
    if os.fork() == 0:
        say("ready")
        end = time.monotonic() + 60
        while time.monotonic() < end:
            time.sleep(0.002)
            if os.fork():
                os._exit(0)
            os.setsid()
        os._exit(0)
    wait_for_eof()


def talking_wrapper(tag: str) -> None:
    """Leave a descendant in a session of its own, which writes to our stdout for ever."""
    start("talker", tag, new_session=True)
    wait_for_eof()


def talker(tag: str) -> None:
    be_stubborn()
    say(f"ready {os.getpid()}")
    while True:
        os.write(1, LINE * 4096)


def start_leased(path: str) -> None:
    """Start a program whose exec hangs: this process is in state D until it is over, or killed."""
    signal.signal(signal.SIGTERM, lambda *_: complain("got SIGTERM"))
    say("ready")
    # Its own SIGTERM blocked: else the one that a group is sent would end it, and with it our wait.
    os.posix_spawn(path, [path], {}, setsigmask=[signal.SIGTERM])
    sleep_for_ever()


# Not run as a child, but beside one.


def hold_lease(path: str, seconds: str) -> None:
    """Hold a write lease on a file; give it up some time after somebody wants to run it."""
    import fcntl  # noqa: PLC0415

    fd = os.open(path, os.O_RDONLY)
    signal.signal(signal.SIGIO, lambda *_: broken.append(True))
    broken: list[bool] = []
    fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_WRLCK)
    say("ready")
    while not broken:
        time.sleep(0.005)
    say("wanted")
    time.sleep(float(seconds))
    fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_UNLCK)


if __name__ == "__main__":
    try:
        globals()[sys.argv[1].replace("-", "_")](*sys.argv[2:])
    except BrokenPipeError:
        sys.exit(0)
