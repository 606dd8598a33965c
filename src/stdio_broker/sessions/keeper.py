"""The children of legacy sessions: each started, joined to its session, replaced, seen to its end.

A session has one child that it uses, and for a while another one that finishes what it was asked.
Every replacement goes the same way, whatever it is for - a crash, a sleep, another credential, another
recipe: a fresh child is told what the client has told the others, then it is used. So a session can
sleep: its child is stopped, and the next request wakes another.

Source: design decision 6; scaling reference, section 3.6.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Coroutine

from ..bridge import Bridge, LegacySession, Link
from ..errors import (
    BridgeBroken,
    BrokerError,
    ChildGone,
    LimitReached,
    RemoteProtocolError,
    ServerFailing,
    SessionNotFound,
    StartTimeout,
)
from ..protocol.journal import Likeness
from ..supervisor import Supervisor
from ..supervisor.restart import Breaker
from .admission import Admission
from .server import Launch
from .session import Session
from .state import ServerState

__all__ = ["SERVER_ENDED", "Keeper", "ended_unread"]

logger = logging.getLogger(__name__)

#: Why a session ended that nobody ended.
SERVER_ENDED = "the server ended"

#: Seconds between the end of a child's stdin and its exit, after which it counts as alive.
EXIT_TIMEOUT = 0.5


class Keeper:
    """Who starts and stops the children of the legacy sessions of one server.

    Args:
        server: What to start, and within which bounds.
        supervisor: Starts the children.
        admission: Says whether one may be started.
        tasks: Where each child has its task.
        uniform: Draws the back-off of sessions whose child keeps crashing.
        end: Ends a session, for a reason.
        on_change: Called when nothing of a child is left.

    Attributes:
        crashes: Children so far that ended by themselves after their answer to `initialize`.
    """

    def __init__(
        self,
        server: ServerState,
        supervisor: Supervisor,
        admission: Admission,
        tasks: asyncio.TaskGroup,
        *,
        uniform: Callable[[float, float], float],
        end: Callable[[Session, str], None],
        on_change: Callable[[], None],
    ) -> None:
        self.crashes = 0
        self._loop = asyncio.get_running_loop()
        self._server = server
        self._supervisor = supervisor
        self._admission = admission
        self._tasks = tasks
        self._uniform = uniform
        self._end = end
        self._on_change = on_change

    def is_durable(self, session: Session) -> bool:
        """Whether a session outlives its child."""
        if session.agreement is None or self._server.settings.recovery != "replay":
            return False
        return not isinstance(session.bridge, Bridge) or session.bridge.outlives_children

    def may_sleep(self, session: Session) -> bool:
        """Whether a session can do without a child now. One that is told of changes to resources cannot."""
        if not self.is_durable(session):
            return False
        if isinstance(session.bridge, LegacySession):
            return not (session.bridge.listening and session.bridge.subscriptions)
        watches = session.bridge.listening and session.bridge.journal.subscriptions
        return session.link is not None and not watches

    async def start(self, session: Session, launch: Launch) -> Link:
        """Start a child for a session; it is not used yet. Its place is given back at its end.

        Raises:
            Draining: We are shutting down.
            SessionNotFound: The session has ended meanwhile.
            SpawnError: The command cannot be started.
        """
        self._check_wanted(session)
        config = launch.config_for_log(session=session.name, principal=session.principal.subject)
        child = await self._supervisor.start(config)
        try:
            self._check_wanted(session)
        except BrokerError:
            await child.stop(eof_grace=0, stop_grace=0)
            raise
        bridge = _bridge_of(session)
        link = bridge.join(child)
        facts = {**self._facts(session), "pid": child.pid}
        logger.info("session.child_started", extra=facts)
        keeper = self._tasks.create_task(self._keep(session, link, facts), name=f"child of {session.name}")
        session.keepers[link] = keeper
        keeper.add_done_callback(lambda _: session.keepers.pop(link, None))
        return link

    def _check_wanted(self, session: Session) -> None:
        self._admission.check()
        if session.ended is not None:
            raise SessionNotFound

    async def wake(self, session: Session) -> Link:
        """Return a link to a child that a session can use; the first who asks has one started.

        Raises:
            BrokerError: There is none, and none could be started.
        """
        if session.waking is None:
            session.waking = self._make_ready(session, self._wake)
        # Who waits may go away; the start is everybody's.
        return await asyncio.shield(session.waking)

    def renew(self, session: Session) -> None:
        """Replace the child of a session, and let the old one finish what it was asked, if it is awake.

        A session that does not outlive its child keeps it.
        """
        if session.waking is None and session.link is not None and self.is_durable(session):
            session.waking = self._make_ready(session, self._renew)
            session.waking.add_done_callback(lambda _: self._renewed(session))

    def _renewed(self, session: Session) -> None:
        """See to what a renewal that failed has left behind."""
        if session.ended is None:
            self.rest_if_outdated(session)
            self.wake_listener(session)

    def rest_if_outdated(self, session: Session) -> None:
        """Let a session do without a child that is to be replaced, if that disturbs nobody."""
        link = session.link
        # Its client may have gone away: it has not cancelled what it asked for.
        if link is None or link.calls or session.busy:
            return
        if session.outdated and self.is_durable(session):
            self.rest(session, "another configuration")

    def rest(self, session: Session, reason: str) -> None:
        """Let a session that owes nobody anything do without a child; the next request wakes another."""
        if isinstance(session.bridge, LegacySession):
            session.bridge.doze()
            return
        link = session.bridge.rest()
        session.outdated = False
        if session.breaker is not None and not session.breaker.statistics(self._loop.time()).failures:
            session.breaker = None  # its child has lived: that another one crashed once is over
        if link is not None:
            logger.info(
                "session.sleeps", extra={**self._facts(session), "pid": link.child.pid, "reason": reason}
            )
            self.stop(link)
            self.wake_listener(session)

    def stop(self, link: Link, *, at_once: bool = False) -> None:
        """Stop a child, behind our back.

        Args:
            link: To it.
            at_once: Whether to kill it, not ask.
        """
        # Its own task, which sees it through, waits for its end.
        if at_once:
            link.child.stop_nowait(eof_grace=0, stop_grace=0)
        else:
            link.child.stop_nowait()

    # The life of one child.

    async def _keep(self, session: Session, link: Link, facts: dict[str, object]) -> None:
        """See a child through, until nothing of it is left."""
        began = self._loop.time()
        bridge = _bridge_of(session)
        reason = "the broker failed"
        try:
            ending = await bridge.run(link)
            reason = ending.reason
            self._ended(session, link, ending, began)
        except Exception:  # a child's entry point: a mistake of ours must not end the others
            logger.exception("child.failed", extra=facts)
            self._end(session, SERVER_ENDED)
        except asyncio.CancelledError:
            if link.child.stop_requested:  # as a stop that is cancelled
                link.child.stop_nowait(eof_grace=0, stop_grace=0)
            raise
        finally:
            await link.child.stop()
            self._admission.give_back(session.principal)
            seconds = round(self._loop.time() - began, 3)
            logger.info("session.child_ended", extra={**facts, "reason": reason, "seconds": seconds})
            self._on_change()

    def _ended(self, session: Session, link: Link, ending: BridgeBroken, began: float) -> None:
        """Note that a child has ended: by itself, or because it was stopped."""
        if session.ended is not None:
            return
        by_itself = not link.child.stop_requested
        self.crashes += by_itself and session.agreement is not None
        if not self.is_durable(session):
            self._end(session, SERVER_ENDED)
        elif by_itself and link.used and session.link is None:  # else it was replaced before
            self._note_crash(session, ending, began)
            self.wake_listener(session)

    def _note_crash(self, session: Session, ending: BridgeBroken, began: float) -> None:
        now = self._loop.time()
        policy = self._server.settings.breaker
        if session.breaker is None or now - began >= policy.stable_after:
            session.breaker = Breaker(policy, uniform=self._uniform)
        attempt = session.breaker.try_start(now)
        session.breaker.failed(attempt, now, ending.reason)
        logger.warning(
            "session.lost_child",
            extra={**self._facts(session), "reason": ending.reason},
        )

    def wake_listener(self, session: Session) -> None:
        """Wake a child without being asked for a client that waits to be told of something."""
        bridge = _bridge_of(session)
        if session.waking is not None or bridge.link is not None:
            return
        if bridge.listening and bridge.journal.subscriptions and self.is_durable(session):
            session.waking = self._make_ready(session, self._wake)

    # Replacements.

    def _make_ready(
        self, session: Session, work: Callable[[Session], Coroutine[None, None, Link]]
    ) -> asyncio.Future[Link]:
        ready: asyncio.Future[Link] = self._loop.create_future()
        # Nobody may be left to hear that it failed.
        ready.add_done_callback(lambda done: done.cancelled() or done.exception())
        task = self._tasks.create_task(self._do(session, work, ready), name=f"wake {session.name}")
        # Whoever ends the session answers in its place; then nobody needs what it waits for.
        ready.add_done_callback(lambda _: task.cancel())
        return ready

    async def _do(
        self,
        session: Session,
        work: Callable[[Session], Coroutine[None, None, Link]],
        ready: asyncio.Future[Link],
    ) -> None:
        try:
            link = await work(session)
        except BrokerError as exc:
            logger.warning("session.not_woken", extra={**self._facts(session), "problem": str(exc)})
            _settle(ready, exc)
        except Exception:  # an entry point, as above
            logger.exception("session.not_woken", extra=self._facts(session))
            _settle(ready, BridgeBroken("the broker failed to start the server"))
        else:
            _settle(ready, link)
        finally:
            ready.cancel()  # unless it is told: nobody shall wait for a task that was cancelled
            session.waking = None
            self._on_change()

    async def _wake(self, session: Session) -> Link:
        if session.breaker is not None and not session.breaker.admits(self._loop.time()):
            left = session.breaker.backoff(self._loop.time())
            raise ServerFailing(retry_after=left or self._server.settings.retry_after)
        crashed = session.breaker is not None
        earlier = _bridge_of(session).rest()
        if earlier is not None:
            self.stop(earlier)  # it has ended, or does not read any more
        await session.wait_children()  # not two processes where there may be place for one only
        session.outdated = False  # what is started from now on is not
        try:
            link, likeness = await self._ready(session)
        finally:
            session.last_used = self._loop.time()  # whoever asked has waited for it
        bridge = _bridge_of(session)
        told = bridge.journal.list_changes() if crashed or likeness is Likeness.CHANGED else []
        bridge.use(link, told=[*told, *bridge.journal.updates()])
        logger.info("session.woken", extra={**self._facts(session), "pid": link.child.pid})
        return link

    async def _renew(self, session: Session) -> Link:
        try:
            link, likeness = await self._ready(session)
        except LimitReached:
            session.outdated = True  # where there is no place for two it has none before it is idle
            raise
        bridge = _bridge_of(session)
        crashed = bridge.link is None
        told = bridge.journal.list_changes() if crashed or likeness is Likeness.CHANGED else []
        if crashed:
            told += bridge.journal.updates()
        earlier = bridge.use(link, told=told)
        session.outdated = False
        logger.info("session.renewed", extra={**self._facts(session), "pid": link.child.pid})
        if earlier is not None:
            session.keepers.pop(earlier, None)  # nobody waits for it: it may take its time
            self._tasks.create_task(self._retire(earlier), name=f"retire a child of {session.name}")
        return link

    async def _retire(self, link: Link) -> None:
        """Let a child finish what it was asked, and stop it."""
        await self._let_finish(link)
        await link.child.stop()

    async def _let_finish(self, link: Link) -> None:
        try:
            async with asyncio.timeout(self._server.settings.drain_timeout):
                await link.wait_quiet()
        except TimeoutError:
            logger.warning("child.not_drained", extra={"pid": link.child.pid, "calls": link.calls})

    async def _ready(self, session: Session) -> tuple[Link, Likeness]:
        """Start a child, and tell it what the client has told the others.

        Raises:
            SessionNotFound: It is so different that the session has been ended.
            BrokerError: It could not be started; see `SessionManager.open`.
        """
        self._admission.check()
        recipe = self._server.recipe
        launch = await recipe.resolve(session.principal)
        with self._admission.place(session.principal) as place:
            async with self._admission.start(session.principal) as start:
                start.secrets = launch.secrets
                link = await self.start(session, launch)
                place.pop_all()  # from here on the child's own task gives it back
                try:
                    likeness = await self._replay(link)
                except BaseException as exc:
                    if session.ended is None:  # else whoever ended it has said how
                        self.stop(link, at_once=True)
                    if session.ended is not None and isinstance(exc, BridgeBroken):
                        raise SessionNotFound from None  # by whoever ended it: no failure of the server
                    raise
                start.answered()
        if likeness is Likeness.INCOMPATIBLE or session.ended is not None:
            self.stop(link)
            if session.link is not None:
                await self._let_finish(session.link)
            self._end(session, "the server is another one by now")
            raise SessionNotFound
        # Not before: a child that fails to start has an old one go on, which is still to be replaced.
        session.generation = launch.generation
        self._server.note_started(recipe)
        return link, likeness

    async def _replay(self, link: Link) -> Likeness:
        timeout = self._server.settings.start_timeout
        try:
            async with asyncio.timeout(timeout):
                return await link.replay()
        except TimeoutError:
            raise StartTimeout(timeout) from None
        except ChildGone:
            raise await ended_unread(link) from None
        except RemoteProtocolError as exc:
            # It took it before. What the client agreed on with it holds no more.
            logger.warning("session.refused", extra={"pid": link.child.pid, "problem": str(exc)})
            return Likeness.INCOMPATIBLE

    def _facts(self, session: Session) -> dict[str, object]:
        return {
            "session": session.name,
            "principal": session.principal.subject,
            "server": self._server.name,
        }


async def ended_unread(link: Link) -> BridgeBroken:
    """Return how a child ended that did not read `initialize`, as far as that shows soon."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(EXIT_TIMEOUT):
            await link.child.exited.wait()
            status = await link.child.wait()
            text = f"the server process {status} before it read `initialize`"
            return BridgeBroken(text, code=status.code, signal=status.signal)
    return BridgeBroken("the server process ended before it read `initialize`")


def _settle(ready: asyncio.Future[Link], outcome: Link | BrokerError) -> None:
    """Tell what came of a start, unless whoever ended the session has."""
    with contextlib.suppress(asyncio.InvalidStateError):
        if isinstance(outcome, Link):
            ready.set_result(outcome)
        else:
            ready.set_exception(outcome)


def _bridge_of(session: Session) -> Bridge:
    """Return the bridge of a session with children of its own."""
    if not isinstance(session.bridge, Bridge):
        raise TypeError(f"a session over a shared child has none of its own: {session.name}")
    return session.bridge
