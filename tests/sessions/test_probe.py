"""A server is tried once, before anybody depends on it."""

from __future__ import annotations

import asyncio
import signal

import pytest

from stdio_broker.errors import SpawnError
from stdio_broker.protocol.handshake import Agreement
from stdio_broker.sessions import ProbeFailed, ServerFacts, ServerRecipe, probe
from stdio_broker.supervisor import Config, Supervisor
from tests.support.edge import child_config
from tests.support.processes import wait_until

SECRET = "hunter2-hunter2"  # noqa: S105 - made up


async def tried(config: Config, *, timeout: float = 20.0, secrets: frozenset[str] = frozenset()) -> Agreement:
    """Try a server; fail if that leaves a child."""
    async with Supervisor() as supervisor:
        try:
            return await probe(
                ServerRecipe("child", config, secrets),
                supervisor,
                ServerFacts(),
                client_name="test",
                client_version="1",
                timeout=timeout,
            )
        finally:
            assert supervisor.statistics().running == 0


async def failure(
    config: Config, *, timeout: float = 20.0, secrets: frozenset[str] = frozenset()
) -> ProbeFailed:
    """Return why a server cannot be used."""
    with pytest.raises(ProbeFailed) as caught:
        await tried(config, timeout=timeout, secrets=secrets)
    return caught.value


async def test_a_good_server_tells_its_name_and_what_it_speaks() -> None:
    """Ours: what the ready line says."""
    agreement = await tried(child_config())
    assert (agreement.name, agreement.server_version) == ("mcp-child", "1.0")
    assert agreement.revision.version == "2025-11-25"


async def test_an_older_server_is_as_good() -> None:
    """protocol.md, 6.2: all legacy versions negotiate."""
    assert (await tried(child_config("version=2024-11-05"))).revision.version == "2024-11-05"


async def test_a_banner_and_logs_before_the_answer_do_not_matter() -> None:
    """protocol.md, 2.2: no JSON on stdout is skipped."""
    assert (await tried(child_config("banner", "early-log"))).name == "mcp-child"


async def test_a_server_that_ends_leaves_its_status_and_its_last_words() -> None:
    """Ours: the operator gets all that there is to see."""
    problem = await failure(child_config("exit-at-start=3"))
    assert problem.exit_status is not None
    assert problem.exit_status.code == 3
    assert problem.stderr_tail == ("first complaint", "last complaint")
    assert problem.first_bad_line is None


async def test_a_program_that_is_no_server_leaves_the_first_line_that_it_printed() -> None:
    """Ours: `echo` and the like; what it printed tells most."""
    problem = await failure(Config(cmd=("sh", "-c", "echo Usage: nonsense; echo more; exit 1")))
    assert problem.exit_status is not None
    assert problem.exit_status.code == 1
    assert problem.first_bad_line == "Usage: nonsense"


async def test_a_program_that_echoes_what_it_is_told_is_no_server() -> None:
    """Ours: `cat` sends our own request back, which is no answer."""
    problem = await failure(Config(cmd=("cat",)), timeout=0.5)
    assert problem.exit_status is None
    assert "within 0.5 s" in str(problem)


async def test_a_server_that_never_answers_is_given_up_at_the_deadline() -> None:
    """Ours: `start_timeout`."""
    problem = await failure(child_config("silent", "start-stderr=loading"), timeout=0.5)
    assert problem.exit_status is None
    assert "within 0.5 s" in str(problem)
    assert problem.stderr_tail == ("loading",)


@pytest.mark.parametrize(
    ("mode", "words"), [("refuse=no such database", "no such database"), ("version=1999-01-01", "1999-01-01")]
)
async def test_a_server_that_answers_with_something_else_is_quoted(mode: str, words: str) -> None:
    """Ours: its own words say most."""
    problem = await failure(child_config(mode))
    assert problem.exit_status is None
    assert words in str(problem)


async def test_a_server_that_ends_by_a_signal_is_told_from_one_that_we_stopped() -> None:
    """Ours: an exit status is only reported where the server ended by itself."""
    problem = await failure(Config(cmd=("sh", "-c", "kill -SEGV $$")))
    assert problem.exit_status is not None
    assert problem.exit_status.signal == signal.SIGSEGV


async def test_a_command_that_cannot_be_started_is_a_spawn_error() -> None:
    """errors.SpawnError."""
    with pytest.raises(SpawnError, match="nonexistent"):
        await tried(Config(cmd=("/nonexistent",)))


@pytest.mark.parametrize("mode", [f"start-stderr=token {SECRET} is wrong", f"refuse=token {SECRET} is wrong"])
async def test_what_a_server_says_of_its_own_secrets_is_not_passed_on(mode: str) -> None:
    """design.md, 6.8: tokens never appear in errors; forges quote tokens in refusals."""
    modes = [mode] if mode.startswith("refuse") else [mode, "silent"]
    problem = await failure(child_config(*modes), timeout=0.5, secrets=frozenset({SECRET}))
    shown = " ".join([str(problem), problem.first_bad_line or "", *problem.stderr_tail])
    assert SECRET not in shown
    assert "token [redacted] is wrong" in shown


async def test_a_server_that_has_to_be_killed_is_as_good() -> None:
    """Ours: the trial takes the ladder down like every other end."""
    stubborn = child_config("ignore-eof", "ignore-sigterm", eof_grace=0.05, stop_grace=0.05)
    assert (await tried(stubborn)).name == "mcp-child"


async def test_cancelling_a_trial_leaves_no_child_once_its_supervisor_is_left() -> None:
    """Ours: SIGTERM during the start."""
    async with Supervisor() as supervisor:
        trial = asyncio.create_task(
            probe(
                ServerRecipe("child", child_config("silent")),
                supervisor,
                ServerFacts(),
                client_name="test",
                client_version="1",
                timeout=20,
            )
        )
        await wait_until(lambda: supervisor.statistics().running == 1)
        trial.cancel()
        with pytest.raises(asyncio.CancelledError):
            await trial
    assert supervisor.statistics().running == 0


# Servers of 2026-07-28.


async def learnt(config: Config) -> tuple[Agreement, ServerFacts]:
    """Try a server; return what was learnt of its eras, too."""
    facts = ServerFacts()
    async with Supervisor() as supervisor:
        agreement = await probe(
            ServerRecipe("child", config),
            supervisor,
            facts,
            client_name="test",
            client_version="1",
            timeout=20,
        )
        assert supervisor.statistics().running == 0
    return agreement, facts


async def test_a_server_that_takes_no_initialize_is_asked_what_it_is() -> None:
    """protocol.md, 2.1: a fresh process for the fallback."""
    agreement, facts = await learnt(child_config("era=modern"))
    assert (agreement.name, agreement.server_version) == ("mcp-child", "1.0")
    assert agreement.revision.version == "2026-07-28"
    assert (facts.speaks_legacy, facts.speaks_modern) == (False, True)


@pytest.mark.parametrize("era", ["legacy", "both"])
async def test_a_server_that_takes_initialize_is_not_asked_further(era: str) -> None:
    """Ours: one start; the other fact is found out when a client needs it."""
    agreement, facts = await learnt(child_config(f"era={era}"))
    assert agreement.revision.version == "2025-11-25"
    assert (facts.speaks_legacy, facts.speaks_modern) == (True, None)
    assert facts.handshake_seconds is not None
    assert 0 < facts.handshake_seconds < 20


@pytest.mark.parametrize(
    ("modes", "words"),
    [
        (("versions=2099-01-01",), "it speaks MCP 2099-01-01, which this broker does not"),
        (("discover-error=-32601",), "does not answer `server/discover` either"),
        (("silent-discover",), "did not answer `server/discover` within 1 s"),
        (("die-on=server/discover",), "exited"),
    ],
)
async def test_a_modern_server_that_cannot_be_used_says_why(modes: tuple[str, ...], words: str) -> None:
    """Ours: what `check` and the start tell the operator."""
    problem = await failure(child_config("era=modern", *modes), timeout=1.0 if "silent" in modes[0] else 20.0)
    assert words in str(problem)


async def test_what_a_modern_server_prints_is_shown_to_the_operator() -> None:
    """Ours: as with any other server."""
    problem = await failure(child_config("era=modern", "banner", "discover-error=-32601"))
    assert problem.first_bad_line == "Welcome to mcp-child!"
