"""How clients prove who they are, and how failures are limited; and where keys are kept by default."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

__all__ = ["Mode", "Settings", "default_storage_url"]

Mode = Literal["none", "keys"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How clients of one node are authenticated.

    Attributes:
        mode: "none": everybody is the same anonymous principal. "keys": bearer keys, see `auth.keys`.
        failures_per_minute: Failed proofs that one address may send per minute in the long run. A valid
            key always passes: a key cannot be guessed, so the limit is against noise, not against guesses.
        failure_burst: Failed proofs that one address may send at once.
        poll_interval: Seconds between two looks for keys that another process has made or revoked.

    Raises:
        ValueError: A value is out of range; the message names it, and what it expects.
    """

    mode: Mode = "none"
    failures_per_minute: float = 10.0
    failure_burst: int = 20
    poll_interval: float = 0.25

    def __post_init__(self) -> None:
        """Check every field; the first mistake is named."""
        if self.mode not in {"none", "keys"}:
            raise ValueError(f"mode: expected 'none' or 'keys', found {self.mode!r}")
        if not (math.isfinite(self.failures_per_minute) and self.failures_per_minute > 0):
            raise ValueError(
                f"failures_per_minute: expected a number, more than 0, found {self.failures_per_minute!r}"
            )
        if self.failure_burst < 1:
            raise ValueError(f"failure_burst: expected 1 or more, found {self.failure_burst!r}")
        if not (math.isfinite(self.poll_interval) and self.poll_interval > 0):
            raise ValueError(f"poll_interval: expected seconds, more than 0, found {self.poll_interval!r}")


def default_storage_url(environ: Mapping[str, str]) -> str:
    """Return the URL of the database for whoever has configured none.

    Source: XDG Base Directory Specification, "XDG_STATE_HOME": a relative path there counts as none.
    """
    state = Path(environ.get("XDG_STATE_HOME", ""))
    if not state.is_absolute():
        try:
            state = Path(environ.get("HOME") or Path.home(), ".local", "state")
        except RuntimeError:  # a service, whose user has no home
            state = Path("/var/lib")
    return f"sqlite:///{state / 'stdio-broker' / 'broker.db'}"
