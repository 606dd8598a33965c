"""What a process knows stays its own."""

import ctypes
import resource
import subprocess
import sys

import pytest

from stdio_broker.supervisor import forbid_dumps

#: Files of root's processes are root's in any case, so it has to be somebody else to tell the difference.
#: Who changes its user may not be dumped either; that is taken back first.
PROGRAM = """
import ctypes, os, resource
from stdio_broker.supervisor import forbid_dumps

if os.getuid() == 0:
    os.setuid(65534)
    if hasattr(ctypes.CDLL(None), "prctl"):
        ctypes.CDLL(None).prctl(4, 1, 0, 0, 0)

def belongs_to_root():
    return os.path.exists("/proc") and os.stat(f"/proc/{os.getpid()}/environ").st_uid == 0

before = belongs_to_root()
forbid_dumps()
print(resource.getrlimit(resource.RLIMIT_CORE), before, belongs_to_root())
"""


def told() -> str:
    return subprocess.run(
        [sys.executable, "-c", PROGRAM], stdout=subprocess.PIPE, text=True, check=True
    ).stdout


def test_no_core_is_dumped_by_a_process_or_its_children() -> None:
    """Issue 5: a core dump holds every secret that the process holds."""
    assert told().startswith("(1, 1) ")


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has /proc and the flag")
def test_a_process_of_the_same_user_cannot_read_its_environment() -> None:
    """prctl(2): the files of a process that may not be dumped belong to root, whoever runs it."""
    assert told().endswith(" False True\n")


def test_where_there_is_no_such_flag_the_limit_is_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ours: macOS protects a process from its own user in other ways."""
    limits: list[tuple[int, tuple[int, int]]] = []
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(resource, "setrlimit", lambda what, limit: limits.append((what, limit)))
    monkeypatch.setattr(ctypes, "CDLL", None)  # a call would fail
    forbid_dumps()
    assert limits == [(resource.RLIMIT_CORE, (1, 1))]
