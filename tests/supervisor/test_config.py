"""A mistake in a configuration is named when it is made, not when the child is started."""

import math
from pathlib import Path

import pytest

from stdio_broker.supervisor import Config


def test_only_the_command_is_required() -> None:
    config = Config(cmd=["cat"])
    assert (config.inherit_env, dict(config.env), config.cwd, config.on_stderr) == ("minimal", {}, None, None)


def test_the_default_way_down_takes_at_most_ten_seconds() -> None:
    config = Config(cmd=["cat"])
    graces = [config.flush_grace, config.eof_grace, config.stop_grace, config.kill_grace, config.drain_grace]
    assert graces == [0.5, 2.0, 5.0, 2.0, 0.5]


@pytest.mark.parametrize("cmd", [[], (), "cat file", b"cat"])
def test_a_command_that_is_no_list_is_refused(cmd: list[str]) -> None:
    """S1, and the classic mistake: a string is a sequence of letters."""
    with pytest.raises(ValueError, match="cmd: expected a list of a program and its arguments"):
        Config(cmd=cmd)


def test_a_command_without_a_program_is_refused() -> None:
    with pytest.raises(ValueError, match="cmd: expected a program, found an empty string"):
        Config(cmd=["", "argument"])


def test_a_command_of_bytes_is_refused() -> None:
    with pytest.raises(ValueError, match="cmd: expected text, found bytes"):
        Config(cmd=["cat", b"file"])  # type: ignore[list-item] # that is the mistake


@pytest.mark.parametrize("cmd", [["ca\0t"], ["cat", "ab\0cd"]])
def test_a_nul_in_the_command_is_refused(cmd: list[str]) -> None:
    """A C program would receive only what stands before it (as uvloop lets happen)."""
    with pytest.raises(ValueError, match="cmd: an argument contains a NUL character"):
        Config(cmd=cmd)


def test_paths_may_be_path_objects() -> None:
    config = Config(cmd=[Path("/bin/cat"), Path("file")], cwd=Path("/"))
    assert config.cmd == [Path("/bin/cat"), Path("file")]


@pytest.mark.parametrize("name", ["", "A=B", "A\0B"])
def test_a_name_that_no_variable_can_have_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="env: expected a variable's name without '=' and NUL"):
        Config(cmd=["cat"], env={name: "value"})
    with pytest.raises(ValueError, match="env: "):
        Config(cmd=["cat"], env={name: None})


def test_a_nul_in_a_value_is_refused_without_showing_the_value() -> None:
    with pytest.raises(ValueError, match="env: the value of TOKEN contains a NUL character") as caught:
        Config(cmd=["cat"], env={"TOKEN": "secret\0"})
    assert "secret" not in str(caught.value)


def test_a_single_name_to_inherit_is_refused() -> None:
    """A string is a collection of letters, too: it would inherit P, A, T and H."""
    with pytest.raises(ValueError, match='inherit_env: expected "minimal", "all" or a list of names'):
        Config(cmd=["cat"], inherit_env="PATH")


def test_a_nul_in_the_working_directory_is_refused() -> None:
    with pytest.raises(ValueError, match="cwd: contains a NUL character"):
        Config(cmd=["cat"], cwd="/\0")


@pytest.mark.parametrize("grace", [-0.001, math.nan, math.inf])
@pytest.mark.parametrize("name", ["flush_grace", "eof_grace", "stop_grace", "kill_grace", "drain_grace"])
def test_a_grace_is_a_finite_length_of_time(name: str, grace: float) -> None:
    """Every wait is bounded; the worst case of a stop is the sum of the graces."""
    with pytest.raises(ValueError, match=f"^{name}: expected seconds, 0 or more, found"):
        Config(cmd=["cat"], **{name: grace})  # type: ignore[arg-type] # one name for each parameter


@pytest.mark.parametrize("name", ["flush_grace", "eof_grace", "stop_grace", "kill_grace", "drain_grace"])
def test_a_grace_may_be_nothing(name: str) -> None:
    """The seed took "kill now" for "not given" and made it five seconds (its bug 16)."""
    config = Config(cmd=["cat"], **{name: 0})  # type: ignore[arg-type] # one name for each parameter
    assert getattr(config, name) == 0


@pytest.mark.parametrize(
    "name",
    [
        "max_line_bytes",
        "stdout_buffer_bytes",
        "stdin_buffer_bytes",
        "max_stderr_line_bytes",
        "stderr_tail_lines",
    ],
)
def test_a_size_is_at_least_one(name: str) -> None:
    Config(cmd=["cat"], **{name: 1})  # type: ignore[arg-type] # one name for each parameter
    with pytest.raises(ValueError, match=f"^{name}: expected 1 or more, found 0"):
        Config(cmd=["cat"], **{name: 0})  # type: ignore[arg-type] # as above
