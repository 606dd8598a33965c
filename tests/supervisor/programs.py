"""Programs that use the supervisor and come to an end of their own."""

import os
import subprocess
import sys
import textwrap
from pathlib import Path

__all__ = ["run"]


def run(
    code: str, *arguments: str, python: str = sys.executable, user: int | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a program that imports the supervisor, to its end."""
    return subprocess.run(
        [python, "-W", "error", "-c", _PREAMBLE + textwrap.dedent(code), *arguments],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
        env=_ENV,
        cwd="/",
        user=user,
    )


_ENV = {"PATH": os.environ["PATH"], "PYTHONPATH": str(Path(__file__).parents[2] / "src")}

_PREAMBLE = """
import asyncio, os, signal, sys
from stdio_broker.supervisor import Config, drop_inherited_ignores, start

command = sys.argv[1:]
config = Config(cmd=command)

async def ready(child):
    assert (await child.stdout.receive()).startswith(b"ready")
    return child
"""
