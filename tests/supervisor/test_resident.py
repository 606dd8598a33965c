"""How much memory a child's processes hold."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from stdio_broker.supervisor import resident
from stdio_broker.supervisor.resident import resident_bytes
from tests.support.processes import descendants_of, wait_until_sync

linux_only = pytest.mark.skipif(sys.platform != "linux", reason="/proc is Linux's")


def _pages(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1])


@linux_only
def test_the_memory_of_all_processes_counts_whatever_they_are_called() -> None:
    """proc(5): the name in `stat` may hold parentheses and spaces."""
    script = 'exec 3<&0; (exec -a "a) R 1 (b" sleep 600 <&3) & (sleep 600 & wait) & wait'
    with subprocess.Popen(["bash", "-c", script], stdin=subprocess.DEVNULL, start_new_session=True) as shell:
        try:
            wait_until_sync(lambda: len(descendants_of(shell.pid)) >= 3)
            wait_until_sync(lambda: _sleepers(shell.pid) == 2)
            everybody = [shell.pid, *descendants_of(shell.pid)]
            expected = sum(map(_pages, everybody)) * os.sysconf("SC_PAGE_SIZE")
            assert resident_bytes(shell.pid) == expected
            assert expected > resident_bytes(everybody[-1])  # type: ignore[operator] # it is there
        finally:
            os.killpg(shell.pid, 9)


def _sleepers(pid: int) -> int:
    return sum(
        b"sleep" in Path(f"/proc/{one}/exe").readlink().name.encode()
        or b"coreutils" in Path(f"/proc/{one}/exe").readlink().name.encode()
        for one in descendants_of(pid)
    )


def test_of_a_process_that_is_gone_nothing_is_known() -> None:
    """Ours: None, as where there is no /proc."""
    with subprocess.Popen(["true"]) as gone:
        pass
    assert resident_bytes(gone.pid) is None


def test_without_proc_nothing_is_known(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """design.md, 2: macOS keeps working."""
    monkeypatch.setattr(resident, "_PROC", tmp_path / "nothing")
    assert resident_bytes(os.getpid()) is None


@linux_only
def test_a_process_that_ends_while_it_is_looked_at_counts_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Ours: processes come and go while their table is read."""
    for pid, files in {1: {"stat": "1 (a) S 0", "statm": "9 5 1"}, 2: {"stat": "2 (b) S 1"}, 3: {}}.items():
        (tmp_path / str(pid)).mkdir()
        for name, text in files.items():
            (tmp_path / str(pid) / name).write_text(text)
    (tmp_path / "meminfo").touch()
    monkeypatch.setattr(resident, "_PROC", tmp_path)
    assert resident_bytes(1) == 5 * os.sysconf("SC_PAGE_SIZE")
