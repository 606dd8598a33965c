"""What happens to a session in the wrong moment: every test here began as a suspicion of a reviewer."""

from __future__ import annotations

import asyncio
import dataclasses
import gc
import json
import weakref
from collections.abc import Callable

import pytest

from stdio_broker.bridge import Bridge
from stdio_broker.bridge import Settings as BridgeSettings
from stdio_broker.errors import BrokerError, Draining
from stdio_broker.http.passing import tell
from stdio_broker.protocol.jsonrpc import Notification, parse_body
from stdio_broker.sessions import Principal, ServerRecipe, Session, Settings
from stdio_broker.testing import FakeChild
from tests.support.fake_servers import INITIALIZE_RESULT, FakeServers, Message, answer_line
from tests.support.fake_sessions import (
    ANNA,
    BERND,
    CONFIG,
    FakeSessions,
    answer_on,
    bridge_of,
    initialize,
    now,
    on_stream,
    sessions_of,
    settle,
    virtual,
)
from tests.support.tokens import Tokens, recipe_with_token

OTHER = ServerRecipe("fake", dataclasses.replace(CONFIG, cmd=["other"]))
CHANGES = ["notifications/tools/list_changed", "notifications/resources/list_changed"]
UPDATED = "notifications/resources/updated"


def calls_of(child: FakeChild) -> list[Message]:
    """Return the calls that a child heard."""
    return [json.loads(line) for line in child.stdin.lines if b"tools/call" in line]


def answers(child: FakeChild, result: Message) -> None:
    """Let a child answer the last call that it heard."""
    child.stdout.feed(answer_line(calls_of(child)[-1]["id"], result))


async def cancel(rig: FakeSessions, session: Session) -> None:
    """Cancel the call of a session, as the endpoint does."""
    body = {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 1}}
    message = parse_body(json.dumps(body).encode())
    assert isinstance(message, Notification)
    await tell(rig.manager, session, message)


async def until(condition: Callable[[], bool]) -> None:
    """Wait for a moment that nobody tells of, turn by turn of the loop."""
    for _ in range(1000):
        if condition():
            return
        await asyncio.sleep(0)
    raise AssertionError("it never came")


# A child that is being replaced, beside its successor.


@virtual
async def test_a_retiring_child_that_crashes_takes_its_successor_not_with_it() -> None:
    """Ours: a listener has a child woken only where there is none."""
    tokens = Tokens({ANNA: "old"})
    async with sessions_of(tokens=tokens, refresh_interval=30) as rig:
        session = await rig.open()
        await rig.ask(session, "resources/subscribe", uri="a:1")
        session.bridge.listen()
        old = rig.servers.child
        del rig.servers.results["tools/call"]
        on_old = await rig.call(session)
        tokens.tokens[ANNA] = "new"
        await settle(31)
        new = rig.servers.child
        on_new = await rig.call(session)
        await rig.crash(old)
        assert "error" in await answer_on(on_old)
        assert not new.exited.is_set()
        answers(new, {"n": 1})
        assert (await answer_on(on_new))["result"] == {"n": 1}
        for exchange in (on_old, on_new):
            session.bridge.release(exchange)
        assert len(rig.servers.children) == 2


@virtual
async def test_a_crash_costs_no_wait_for_a_child_that_finishes_what_it_was_asked() -> None:
    """Ours: a child that was replaced may take as long as `drain_timeout`."""
    tokens = Tokens({ANNA: "old"})
    async with sessions_of(tokens=tokens, refresh_interval=30, drain_timeout=600) as rig:
        session = await rig.open()
        old = rig.servers.child
        del rig.servers.results["tools/call"]
        running = await rig.call(session)
        tokens.tokens[ANNA] = "new"
        await settle(31)
        rig.servers.results["tools/call"] = {"n": 2}
        await rig.crash()
        began = now()
        assert (await rig.ask(session))["result"] == {"n": 2}
        assert now() - began < 1
        answers(old, {"n": 1})
        assert (await answer_on(running))["result"] == {"n": 1}
        session.bridge.release(running)


@virtual
async def test_a_call_is_cancelled_at_a_retiring_child_that_is_stopped_and_the_session_goes_on() -> None:
    """Ours: that the old child does not read any more is no news; the new one does."""
    tokens = Tokens({ANNA: "old"})
    async with sessions_of(tokens=tokens, refresh_interval=30, drain_timeout=10) as rig:
        session = await rig.open()
        old = rig.servers.child
        del rig.servers.results["tools/call"]
        running = await rig.call(session)
        tokens.tokens[ANNA] = "new"
        await settle(31)
        assert rig.servers.alive == 2
        # It is asked to stop, and closes its stdin, but takes its time.
        old.stdin.fill()
        old.stdin.shut()
        await cancel(rig, session)
        await settle()
        assert session.ended is None
        assert "error" in await answer_on(running)
        session.bridge.release(running)
        rig.servers.results["tools/call"] = {"n": 2}
        assert "result" in await rig.ask(session)


@virtual
async def test_a_crash_while_its_successor_starts_is_told_like_any_other() -> None:
    """Ours: what the old child knew is gone, and between the two nobody was told of changes."""
    tokens = Tokens({ANNA: "old"})
    async with sessions_of(tokens=tokens, refresh_interval=30) as rig:
        session = await rig.open()
        await rig.ask(session, "resources/subscribe", uri="a:1")
        listener = session.bridge.listen()
        rig.servers.start_seconds = 20
        tokens.tokens[ANNA] = "new"
        await settle(35)
        await rig.crash()
        await settle(60)
        assert rig.servers.alive == 1
        assert await on_stream(listener) == [*CHANGES, UPDATED]


@virtual
async def test_a_listener_whose_child_crashed_while_its_renewal_failed_gets_another_one() -> None:
    """Ours: its client waits, and asks nothing."""
    tokens = Tokens({ANNA: "old"})
    async with sessions_of(tokens=tokens, refresh_interval=30, start_timeout=5) as rig:
        session = await rig.open()
        await rig.ask(session, "resources/subscribe", uri="a:1")
        session.bridge.listen()
        first = rig.servers.child
        agreed, rig.servers.initialize = rig.servers.initialize, "silence"
        tokens.tokens[ANNA] = "new"
        await settle(31)
        assert rig.servers.alive == 2
        await rig.crash(first)
        rig.servers.initialize = agreed
        await settle(60)
        assert rig.servers.alive == 1


@virtual
async def test_a_renewal_by_another_server_ends_the_session_when_its_calls_are_over() -> None:
    """Issue 5, "Done when" 3: no call fails because a credential was rotated."""
    tokens = Tokens({ANNA: "old"})
    async with sessions_of(tokens=tokens, refresh_interval=30) as rig:
        session = await rig.open()
        old = rig.servers.child
        del rig.servers.results["tools/call"]
        running = await rig.call(session)
        rig.servers.initialize = {**INITIALIZE_RESULT, "capabilities": {}}
        tokens.tokens[ANNA] = "new"
        await settle(32)
        assert rig.servers.alive == 1
        answers(old, {"n": 1})
        assert (await answer_on(running))["result"] == {"n": 1}
        session.bridge.release(running)
        await settle()
        assert session.ended == "the server is another one by now"


@virtual
async def test_nothing_of_a_child_is_kept_while_its_session_sleeps() -> None:
    """Design, 7: some 10 KB for an idle session, children apart."""
    async with sessions_of(idle_timeout=10) as rig:
        session = await rig.open()
        await rig.ask(session, "resources/subscribe", uri="a:1")
        await rig.ask(session)
        link = weakref.ref(bridge_of(session).links[0])
        await settle(11)
        gc.collect()
        assert link() is None
        assert session.keepers == {}


# Idle, or not.


@virtual
async def test_a_credential_that_is_rotated_often_does_not_keep_a_session_awake() -> None:
    """Settings.idle_timeout: seconds without a request; that we replace the child is none."""
    tokens = Tokens({ANNA: "0"})
    async with sessions_of(tokens=tokens, refresh_interval=30, idle_timeout=100, session_timeout=1000) as rig:
        session = await rig.open()
        for number in range(1, 5):
            tokens.tokens[ANNA] = str(number)
            await settle(30)
        assert rig.servers.alive == 0
        await settle(1000)
        assert session.ended == "idle"


@virtual
async def test_a_session_whose_child_has_just_crashed_does_not_make_room() -> None:
    """Ours: it does not sleep; its client is about to go on."""
    async with sessions_of(max_sessions=2) as rig:
        asleep = await rig.open()
        session = await rig.open()
        await rig.crash()
        with pytest.raises(BrokerError, match="all 2 sessions"):
            await rig.open()
        assert (session.ended, asleep.ended) == (None, None)
        assert "result" in await rig.ask(session)


@pytest.mark.parametrize(
    ("server", "told"),
    [(FakeServers.legacy, [UPDATED]), (FakeServers.modern, [*CHANGES, UPDATED])],
    ids=["legacy", "modern"],
)
@virtual
async def test_a_listener_that_comes_back_to_a_sleeping_session_is_told_of_resources_again(
    server: Callable[[], FakeServers], told: list[str]
) -> None:
    """Ours: a client that lost its GET for a while asks for nothing else."""
    async with sessions_of(server(), idle_timeout=10) as rig:
        session = await rig.open()
        await rig.ask(session, "resources/subscribe", uri="a:1")
        await settle(31)
        assert rig.servers.alive == 0
        listener = session.bridge.listen()
        await settle()
        assert rig.servers.alive == 1
        assert await on_stream(listener) == told
        await settle(31)
        assert rig.servers.alive == 1


# Other configurations.


@pytest.mark.parametrize("back", [False, True])
@virtual
async def test_a_session_that_was_opened_to_end_with_its_child_does_so_whatever_is_configured_since(
    *, back: bool
) -> None:
    """Ours: nobody could wake another one for it; 404 is what its client understands."""
    async with sessions_of(recovery="end", idle_timeout=100) as rig:
        session, idle = await rig.open(), await rig.open()
        recipe = ServerRecipe("fake", CONFIG)
        rig.manager.reconfigure(recipe, Settings(recovery="replay", idle_timeout=100), BridgeSettings())
        if back:
            rig.manager.reconfigure(recipe, Settings(recovery="end", idle_timeout=100), BridgeSettings())
        await rig.crash(rig.servers.children[0])
        assert session.ended == "the server ended"
        await settle(101)
        assert idle.ended == "idle"
        assert (rig.servers.alive, len(rig.servers.children)) == (0, 2)


@virtual
async def test_a_session_that_begins_while_the_server_changes_is_moved_too() -> None:
    """Issue 5: a changed server recipe: old ones move when idle."""
    async with sessions_of() as rig:
        rig.servers.start_seconds = 5
        opening = asyncio.create_task(rig.open())
        await settle(1)
        rig.manager.reconfigure(OTHER, Settings(), BridgeSettings())
        session = await opening
        await settle()
        await rig.ask(session)
        assert rig.servers.configs[-1].cmd[0] == "other"


@virtual
async def test_a_session_that_wakes_while_the_server_changes_there_and_back_is_moved_too() -> None:
    """Ours: what it was started from before is what would be started now, but it is not what it runs."""
    async with sessions_of(idle_timeout=10) as rig:
        session = await rig.open()
        await settle(11)
        settings = Settings(idle_timeout=10)
        rig.manager.reconfigure(OTHER, settings, BridgeSettings())
        await settle()
        rig.servers.start_seconds = 5
        asking = asyncio.create_task(rig.ask(session))
        await settle(1)
        rig.manager.reconfigure(ServerRecipe("fake", CONFIG), settings, BridgeSettings())
        await asking
        await settle()
        await rig.ask(session)
        assert [config.cmd[0] for config in rig.servers.configs] == ["fake", "other", "fake"]


@virtual
async def test_a_session_that_runs_what_is_configured_again_is_left_in_peace() -> None:
    """Ours: a reload there and back, while it was busy."""
    async with sessions_of() as rig:
        session = await rig.open()
        del rig.servers.results["tools/call"]
        running = await rig.call(session)
        for recipe in (OTHER, ServerRecipe("fake", CONFIG)):
            rig.manager.reconfigure(recipe, Settings(), BridgeSettings())
            await settle()
        answers(rig.servers.child, {})
        await answer_on(running)
        session.bridge.release(running)
        await settle()
        assert (rig.servers.alive, len(rig.servers.children)) == (1, 1)


@virtual
async def test_a_child_is_not_replaced_while_it_works_for_a_client_that_has_gone() -> None:
    """2025-11-25, transports: who goes away has not cancelled."""
    async with sessions_of() as rig:
        session = await rig.open()
        del rig.servers.results["tools/call"]
        session.bridge.release(await rig.call(session))
        rig.manager.reconfigure(OTHER, Settings(), BridgeSettings())
        await settle()
        assert rig.servers.alive == 1
        answers(rig.servers.child, {})
        await settle()
        assert rig.servers.alive == 0


class SlowTokens(Tokens):
    """Credentials that take a while for some principals.

    Attributes:
        seconds: How long.
    """

    def __init__(self, tokens: dict[Principal, str]) -> None:
        super().__init__(tokens)
        self.seconds: dict[Principal, float] = {}

    async def resolve(self, principal: Principal):  # type: ignore[no-untyped-def] # noqa: ANN201 - as there
        await asyncio.sleep(self.seconds.get(principal, 0.0))
        return await super().resolve(principal)


def people(number: int) -> list[Principal]:
    """Return some principals."""
    return [Principal("https://id.example.com", f"p{index}") for index in range(number)]


@virtual
async def test_a_source_that_hangs_for_some_delays_nobody_else_for_long() -> None:
    """Settings.refresh_interval: within which a rotated credential is seen."""
    everybody = people(40)
    tokens = SlowTokens(dict.fromkeys(everybody, "old"))
    async with sessions_of(tokens=tokens, refresh_interval=30) as rig:
        sessions = [await rig.open(principal) for principal in everybody]
        for principal in everybody[:20]:
            tokens.seconds[principal] = 10
        tokens.tokens.update(dict.fromkeys(everybody[20:], "new"))
        await settle(30 + 80)
        for session in sessions[20:]:
            assert session.link is not None
        assert [config.env["TOKEN"] for config in rig.servers.configs].count("new") == 20


@pytest.mark.parametrize("withdrawn", [False, True])
@virtual
async def test_what_a_source_says_that_was_replaced_meanwhile_counts_no_more(*, withdrawn: bool) -> None:
    """Ours: it is the new source's to say."""
    old, new = SlowTokens({ANNA: "a"}), Tokens({ANNA: "a"})
    async with sessions_of(tokens=old, refresh_interval=30) as rig:
        session = await rig.open()
        old.seconds[ANNA] = 10
        await settle(32)
        if withdrawn:
            del old.tokens[ANNA]
        else:
            old.tokens[ANNA] = "b"
        rig.manager.reconfigure(recipe_with_token(CONFIG, new), Settings(), BridgeSettings())
        await settle(20)
        assert (session.ended, len(rig.servers.children)) == (None, 1)


# Limits.


@virtual
async def test_a_renewal_for_which_there_is_no_place_waits_until_the_session_is_idle() -> None:
    """Ours: where there may be one process only, it cannot have two for a while."""
    tokens = Tokens({ANNA: "old"})
    async with sessions_of(tokens=tokens, refresh_interval=30, max_children=1) as rig:
        session = await rig.open()
        del rig.servers.results["tools/call"]
        running = await rig.call(session)
        tokens.tokens[ANNA] = "new"
        await settle(31)
        assert rig.servers.alive == 1
        answers(rig.servers.child, {"n": 1})
        assert "result" in await answer_on(running)
        session.bridge.release(running)
        await settle()
        rig.servers.results["tools/call"] = {}
        await rig.ask(session)
        assert [config.env["TOKEN"] for config in rig.servers.configs] == ["old", "new"]


# Ends.


@virtual
async def test_nobody_is_started_for_a_session_that_has_ended_while_it_waited() -> None:
    """Ours: not even to be killed at once; a principal that was revoked has no child any more."""
    async with sessions_of(idle_timeout=10) as rig:
        session = await rig.open()
        await settle(11)
        quotas = rig.manager.quotas
        turns = [quotas.turn(BERND) for _ in range(1000)]
        taken = []
        for turn in turns:
            try:
                async with asyncio.timeout(0):
                    await turn.__aenter__()
            except (TimeoutError, BrokerError):
                break
            taken.append(turn)
        asking = asyncio.create_task(rig.ask(session))
        await settle()
        rig.manager.revoke(ANNA, "revoked")
        for turn in taken:
            await turn.__aexit__(None, None, None)
        with pytest.raises(BrokerError):
            await asking
        assert len(rig.servers.children) == 1


@virtual
async def test_who_is_revoked_while_the_era_of_its_server_is_found_out_gets_nothing() -> None:
    """Issue 5: a revoked principal has nothing, on no server, at once."""
    servers = FakeServers.modern()
    async with sessions_of(servers) as rig:
        opening = asyncio.create_task(rig.open())
        await until(lambda: bool(servers.children) and servers.child.stop_requested)
        rig.manager.revoke(ANNA, "revoked")
        with pytest.raises(BrokerError):
            await opening
        await settle()
        assert (rig.servers.alive, rig.manager.statistics().sessions) == (0, 0)


@pytest.mark.parametrize("how", ["revoked", "ended"])
@virtual
async def test_no_session_begins_over_a_lease_after_the_end(how: str) -> None:
    """Ours: in the moment between the end of the start and the beginning of the session."""
    servers = FakeServers.modern()
    async with sessions_of(servers) as rig:
        first = await rig.open()  # now it is known which era it speaks
        rig.manager.end(first, "over")
        rig.manager.leases.revoke(ANNA, "over")
        await settle()
        opening = asyncio.create_task(rig.manager.open(ANNA, initialize()))
        leases = rig.manager.leases._leases  # noqa: SLF001
        await until(lambda: any(lease.started.done() for lease in leases.values()))
        if how == "revoked":
            rig.manager.revoke(ANNA, "revoked")
        else:
            rig.manager.end_all("over")
        with pytest.raises((BrokerError, Draining)):
            await opening


@pytest.mark.parametrize("servers", [FakeServers.legacy, FakeServers.modern], ids=["legacy", "modern"])
@virtual
async def test_leaving_does_not_wait_for_a_credential_that_nobody_needs_any_more(
    servers: Callable[[], FakeServers],
) -> None:
    """Design, 7: SIGTERM takes no longer than the children need."""
    tokens = SlowTokens({ANNA: "a"})
    async with sessions_of(servers(), tokens=tokens, idle_timeout=10) as rig:
        session = await rig.open()
        await settle(11)
        if session.link is None:
            rig.manager.leases.revoke(ANNA, "idle")
        tokens.seconds[ANNA] = 1000
        asking = asyncio.create_task(rig.ask(session))
        await settle()
        began = now()
    assert now() - began < 10
    if isinstance(session.bridge, Bridge):
        with pytest.raises(Draining):
            await asking
    else:
        assert "error" in await asking
