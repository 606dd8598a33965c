"""Could new sessions be opened? For balancers, which need one word, and for people, who need the reasons.

A node with one broken server among others is ready: taking it away from everybody would help nobody.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from ..sessions import SessionManager, SessionStatistics

__all__ = ["Readiness"]


@dataclass(frozen=True, slots=True)
class Readiness:
    """A snapshot.

    Attributes:
        ready: Whether a new session of some server could be opened.
        problems: Why not, by server; empty where nothing is wrong.
    """

    ready: bool
    problems: Mapping[str, str]

    @classmethod
    def of(cls, servers: Mapping[str, SessionManager]) -> "Readiness":
        """Look at all servers of a node."""
        found = {name: _problem(sessions.statistics()) for name, sessions in servers.items()}
        problems = {name: problem for name, problem in found.items() if problem is not None}
        return cls(len(problems) < len(found), problems)

    def text(self, *, reasons: bool = True) -> str:
        """Return it in words, with a line for each server with a problem if reasons are wanted."""
        lines = [f"{name}: {problem}" for name, problem in self.problems.items()] if reasons else []
        return "\n".join(["ready" if self.ready else "not ready", *lines, ""])


def _problem(statistics: SessionStatistics) -> str | None:
    """Return the first thing that keeps new sessions out."""
    found = {
        "shutting down": statistics.draining,
        f"all {statistics.max_sessions} sessions are in use": statistics.sessions >= statistics.max_sessions,
        f"all {statistics.max_places} processes are in use": statistics.places >= statistics.max_places,
        statistics.node_full: statistics.node_full is not None,
        # Not whenever the breaker is open: it stays so until somebody tries, and a balancer that sends
        # nobody would keep it so for ever.
        "the server keeps failing": statistics.keeps_failing,
        "the server did not start when it was tried": statistics.problem is not None,
    }
    return next((problem for problem, is_there in found.items() if is_there), None)
