"""Control groups in tests: whether there are any, and what is left in ours."""

import contextlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from stdio_broker.supervisor.cgroup import CgroupFolder, default_folder
from tests.support.processes import wait_until_sync

__all__ = ["frozen", "groups_left", "own_group", "path_of", "skip_without_cgroups"]

_FREEZER = Path("/sys/fs/cgroup/freezer")


def skip_without_cgroups() -> None:
    """Skip a test where groups cannot be made: without a cgroup v2 that is ours to write to."""
    try:
        default_folder().make(f"test-{uuid4().hex}").remove()
    except OSError as exc:
        pytest.skip(f"needs a cgroup v2 that we may write to: {exc}")


def own_group() -> Path:
    """Return the folder of the group that the tests are in."""
    return path_of(default_folder()).parent


def groups_left(folder: CgroupFolder | None = None) -> list[str]:
    """Return the names of the groups in use in a folder; None is the one of this process."""
    folder = folder or default_folder()
    spare = {group.name for group in folder._spare}  # noqa: SLF001 - nobody but a test wants to know
    return [path.name for path in path_of(folder).iterdir() if path.is_dir() and path.name not in spare]


def path_of(folder: CgroupFolder) -> Path:
    """Return where the groups in a folder are."""
    path = folder._path  # noqa: SLF001 - nobody but a test wants to know
    assert path is not None
    return path


@contextlib.contextmanager
def frozen(pid: int) -> Iterator[None]:
    """Freeze a process by cgroup v1: it outlives SIGKILL until the end of the block. Skips without root."""
    group = _FREEZER / f"test-{uuid4().hex}"
    try:
        group.mkdir()
        (group / "cgroup.procs").write_text(str(pid))
    except OSError as exc:
        pytest.skip(f"needs a freezer (cgroup v1) that we may write to: {exc}")
    (group / "freezer.state").write_text("FROZEN")
    try:
        yield
    finally:
        os.kill(pid, signal.SIGKILL)
        (group / "freezer.state").write_text("THAWED")
        wait_until_sync(lambda: not (group / "cgroup.procs").read_text(), what=f"end of {pid}")
        group.rmdir()
