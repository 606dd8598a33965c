"""Programs from the distribution's packages, got without root, for tests of what we work with.

`apt-get download` gets a package from where this machine gets its packages, and `dpkg-deb` unpacks it into
`.cache/debian/`, once. Nothing is installed, and nothing of the system's is changed: if its package lists do
not help (containers come without), we get lists of our own. No host is named here.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

__all__ = ["DOWNLOAD_TIMEOUT", "library_path", "program"]

ROOT = Path(__file__).parents[2]
CACHE = ROOT / ".cache" / "debian"

#: Seconds that one run of apt-get may take: lists are some 10 MB.
DOWNLOAD_TIMEOUT = 240.0


def program(package: str, path: str, *also: str, cache: Path = CACHE) -> Path:
    """Return where a program is: in the system if it is installed, else unpacked by us.

    Skips the test where there is no apt at all.

    Args:
        package: The package that has it.
        path: Where it would be installed, e.g. "/usr/bin/bwrap".
        also: Further packages that it needs; nothing looks for those. What is not in the system's own folders
            is found by the linker with `library_path` in LD_LIBRARY_PATH.
        cache: Where packages are unpacked.

    Raises:
        RuntimeError: The package could not be had; the message is what apt-get said.
        FileNotFoundError: The package has no such program.
    """
    if Path(path).exists():
        return Path(path)
    root = cache / re.sub(r"[^a-z0-9.+-]", "_", "+".join((package, *also)))
    found = root / path.lstrip("/")
    if not (root / ".complete").exists():
        for tool in ("apt-get", "dpkg-deb"):
            if shutil.which(tool) is None:
                pytest.skip(f"needs {package}, which is not installed, and there is no {tool} to get it with")
        with _locked(cache):
            if not (root / ".complete").exists():  # another run may have been faster
                _get((package, *also), root, cache)
    if not found.exists():
        raise FileNotFoundError(f"the package {package} has no {path}")
    return found


def library_path(found: Path) -> str:
    """Return what LD_LIBRARY_PATH must be for a program that we unpacked; empty for one of the system."""
    for root in found.parents:
        if (root / ".complete").exists():
            folders = {library.parent for library in root.glob("usr/lib/**/*.so*")}
            return os.pathsep.join(map(str, sorted(folders)))
    return ""


@contextmanager
def _locked(cache: Path) -> Iterator[None]:
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _get(packages: tuple[str, ...], root: Path, cache: Path) -> None:
    """Download and unpack packages."""
    downloads = root.with_name(f"{root.name}.part")
    for folder in (downloads, root):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
    try:
        _apt(downloads, "download", *packages)
    except RuntimeError:
        lists = _own_lists(cache)
        _apt(downloads, *lists, "update")
        _apt(downloads, *lists, "download", *packages)
    for archive in sorted(downloads.glob("*.deb")):
        subprocess.run(["dpkg-deb", "-x", archive, root], check=True, capture_output=True)
    shutil.rmtree(downloads)
    (root / ".complete").touch()


def _own_lists(cache: Path) -> list[str]:
    """Return the options by which apt-get keeps its lists in our folder."""
    folders = {name: cache / "apt" / name for name in ("state", "lists", "cache")}
    for folder in folders.values():
        (folder / "partial").mkdir(parents=True, exist_ok=True)
    return [
        *("-o", f"Dir::State={folders['state']}", "-o", f"Dir::State::Lists={folders['lists']}"),
        *("-o", f"Dir::Cache={folders['cache']}"),
    ]


def _apt(folder: Path, *arguments: str) -> None:
    # "root" is whoever runs it: apt's own user could not write to our folder.
    result = subprocess.run(
        ["apt-get", "-q", "-o", "APT::Sandbox::User=root", *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=DOWNLOAD_TIMEOUT,
        check=False,
        env={**os.environ, "LC_ALL": "C.UTF-8"},
    )
    if result.returncode:
        raise RuntimeError(f"apt-get {' '.join(arguments)}: {(result.stderr or result.stdout).strip()}")
