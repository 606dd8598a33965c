"""Settings of authentication, and where keys are by default."""

import math
from pathlib import Path

import pytest

from stdio_broker.auth import Settings, default_storage_url


def test_the_defaults_are_what_the_documentation_says() -> None:
    settings = Settings()
    assert settings == Settings(mode="none", failures_per_minute=10.0, failure_burst=20, poll_interval=0.25)


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        ("mode", "open", "mode: expected 'none' or 'keys', found 'open'"),
        ("failures_per_minute", 0.0, "failures_per_minute: expected a number, more than 0, found 0.0"),
        ("failures_per_minute", math.nan, "failures_per_minute: expected a number, more than 0, found nan"),
        ("failure_burst", 0, "failure_burst: expected 1 or more, found 0"),
        ("poll_interval", 0.0, "poll_interval: expected seconds, more than 0, found 0.0"),
        ("poll_interval", math.inf, "poll_interval: expected seconds, more than 0, found inf"),
    ],
)
def test_a_value_out_of_range_is_named(field: str, value: object, expected: str) -> None:
    with pytest.raises(ValueError, match=f"^{expected}$"):
        Settings(**{field: value})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("environ", "path"),
    [
        ({"XDG_STATE_HOME": "/state", "HOME": "/home/a"}, "/state/stdio-broker/broker.db"),
        ({"XDG_STATE_HOME": "relative", "HOME": "/home/a"}, "/home/a/.local/state/stdio-broker/broker.db"),
        ({"XDG_STATE_HOME": "", "HOME": "/home/a"}, "/home/a/.local/state/stdio-broker/broker.db"),
        ({"HOME": "/home/a"}, "/home/a/.local/state/stdio-broker/broker.db"),
        ({}, str(Path.home() / ".local/state/stdio-broker/broker.db")),
    ],
)
def test_keys_are_kept_where_a_user_keeps_state(environ: dict[str, str], path: str) -> None:
    """XDG Base Directory Specification."""
    assert default_storage_url(environ) == f"sqlite:///{path}"


def test_a_service_without_a_home_keeps_its_keys_where_services_do(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ours: a container's user may have no entry in the list of users."""

    def fail() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", fail)
    assert default_storage_url({}) == "sqlite:////var/lib/stdio-broker/broker.db"
