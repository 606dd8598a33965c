"""The benchmark's own programs: compiled once where a C compiler is at hand, in Python otherwise.

The results lie in `.cache/bench/` under a name that holds a hash of their source, so that an edit is
compiled again and nothing else is. The folder ignores itself.
"""

import hashlib
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

__all__ = ["ROOT", "Tools", "prepare"]

ROOT = Path(__file__).resolve().parent.parent

_HERE = Path(__file__).resolve().parent
_CACHE = ROOT / ".cache" / "bench"
_HEADERS = tuple(sorted(path.name for path in _HERE.glob("*.h")))
_FLAGS = ("-O2", "-std=c11", "-D_GNU_SOURCE")
_COMPILE_TIMEOUT = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Tools:
    """How to start each program, and what it is made of.

    Args:
        answer: A server that answers by itself; None: not built, as it has no Python stand-in.
        bridge: The least bridge, to be followed by the command of the child; None: as above.
        notes: What a reader of the figures must know, one sentence each.
    """

    child: tuple[str, ...]
    load: tuple[str, ...]
    answer: tuple[str, ...] | None
    bridge: tuple[str, ...] | None
    notes: tuple[str, ...]


def prepare() -> Tools:
    """Compile what can be compiled, and find a stand-in for the rest."""
    compiler = shutil.which("cc")
    built = {name: _compile(compiler, name) for name in ("child", "load", "answer", "bridge")}
    notes = [f"{name}: Python stand-in, not the C program" for name in ("child", "load") if not built[name]]
    if notes:
        notes.append("no C compiler, or no epoll: the generator limits what is measured, ratios are blunt")
    return Tools(
        child=built["child"] or (sys.executable, "-S", str(_HERE / "child.py")),
        load=built["load"] or (sys.executable, "-S", str(_HERE / "loader.py")),
        answer=built["answer"],
        bridge=built["bridge"],
        notes=tuple(notes),
    )


def _compile(compiler: str | None, name: str) -> tuple[str, ...] | None:
    if compiler is None:
        return None
    source = _HERE / f"{name}.c"
    digest = hashlib.sha256(" ".join(_FLAGS).encode())
    for part in (*_HEADERS, source.name):
        digest.update((_HERE / part).read_bytes())
    program = _CACHE / f"{name}-{digest.hexdigest()[:16]}"
    if not program.exists():
        _CACHE.mkdir(parents=True, exist_ok=True)
        (_CACHE / ".gitignore").write_text("*\n")
        # Renamed when it is whole: another run may be compiling the same program.
        unfinished = program.with_suffix(f".{os.getpid()}")
        command = [compiler, *_FLAGS, str(source), "-o", str(unfinished)]
        done = subprocess.run(command, check=False, capture_output=True, timeout=_COMPILE_TIMEOUT)
        if done.returncode:
            return None
        unfinished.rename(program)
    return (str(program),)
