"""What was seen of a command that is no MCP server, in words, and what to try."""

from ..sessions import ProbeFailed
from ..telemetry import printable

__all__ = ["STDERR_LINES", "explain_probe"]

#: Lines of a child's stderr in an error message: a reason, and the stack trace that often follows it.
STDERR_LINES = 20


def explain_probe(exc: ProbeFailed, program: str, *, timeout_name: str) -> list[str]:
    """Return what happened, one line each; the first says most.

    Args:
        exc: What was seen. Secrets are taken out of it already.
        program: The command, without arguments.
        timeout_name: How its user sets the time that it has to start.
    """
    lines = []
    if exc.exit_status is not None:
        lines.append(f"{program!r} {exc.exit_status} before it answered `{exc.method}`")
        if not exc.stderr_tail:
            lines.append("run the command by hand: an MCP server waits for messages on its stdin")
    else:
        lines.append(f"{program!r} runs, but is no MCP server that can be used: {printable(str(exc))}")
        lines.append(
            f"check its arguments (many servers need `--transport stdio` or the like), or {timeout_name}"
        )
    if exc.first_bad_line is not None:
        lines.append(
            f"its stdout, which may carry MCP messages only, began with: {printable(exc.first_bad_line)}"
        )
    if exc.stderr_tail:
        lines.append("its last lines on stderr were:")
        lines += [f"  {printable(line)}" for line in exc.stderr_tail[-STDERR_LINES:]]
    return lines
