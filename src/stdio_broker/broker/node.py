"""The servers of one node: started, changed and ended while the others are served.

Each server has a task of its own, which holds its sessions from its first moment to its last; so one
that is broken, or takes long to go, stops no other.
"""

import asyncio
import dataclasses
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from .. import __version__
from ..auth import Authenticator
from ..bridge import Budgets
from ..config import Configuration, ServerConfiguration
from ..errors import BrokerError, ConfigError, CredentialMissing
from ..http import App
from ..sessions import Principal, Quotas, ServerFacts, ServerRecipe, SessionIds, SessionManager, probe
from ..supervisor import Supervisor, probe_isolation

__all__ = ["Changed", "Node", "recipe_of"]

logger = logging.getLogger(__name__)

#: Seconds after which a server that did not start is tried again: the first time, and at most. Without that
#: it would count as broken until somebody uses it, and a balancer sends nobody to a node that is not ready.
FIRST_TRIAL_INTERVAL, MAX_TRIAL_INTERVAL = 10.0, 300.0


@dataclass(frozen=True, slots=True)
class Changed:
    """What another configuration has changed: names of servers, each in its order.

    Attributes:
        added: New ones.
        changed: Those that are served otherwise from now on.
        removed: Those that are gone.
    """

    added: tuple[str, ...]
    changed: tuple[str, ...]
    removed: tuple[str, ...]

    def __bool__(self) -> bool:
        """Tell whether anything has changed."""
        return bool(self.added or self.changed or self.removed)


class _Served:
    """One server, from its first moment to its last.

    Attributes:
        configuration: As it is now.
        manager: Its sessions.
        stop: Set when it is to end.
        done: Its task.
        trial: Finds out whether it starts; None if nobody needs to know.
    """

    def __init__(self, configuration: ServerConfiguration, manager: SessionManager) -> None:
        self.configuration = configuration
        self.manager = manager
        self.stop = asyncio.Event()
        self.done: asyncio.Task[None] | None = None
        self.trial: asyncio.Task[None] | None = None

    def end_trial(self) -> None:
        """Find out no more whether it starts; a child that was started for that is stopped."""
        if self.trial is not None:
            self.trial.cancel()


class Node:
    """Every server of a node, and what they share.

    Use as an async context manager: leaving it ends everything.

    Args:
        configuration: What is served at first.
        supervisor: Starts the children.
        app: Where the servers are mounted.
        authenticator: Tells whose proof is no longer good.
    """

    def __init__(
        self,
        configuration: Configuration,
        supervisor: Supervisor,
        app: App,
        authenticator: Authenticator,
    ) -> None:
        self._configuration = configuration
        self._supervisor = supervisor
        self._app = app
        budgets = Budgets(
            configuration.max_buffered_bytes,
            max_bytes_each=configuration.max_buffered_bytes_per_principal,
        )
        self._quotas = Quotas(configuration.quotas, now=asyncio.get_running_loop().time, budgets=budgets)
        self._ids = SessionIds()
        self._servers: dict[str, _Served] = {}
        self._leaving: set[_Served] = set()  # removed, and not done with their calls
        self._tasks = asyncio.TaskGroup()
        authenticator.on_revoked(self.revoke)

    async def __aenter__(self) -> Self:
        """Return the node; nothing is served yet."""
        await self._tasks.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End every session of every server, and wait until no child is left."""
        self.end_all()
        for served in self._all():
            served.end_trial()
            served.stop.set()
        # Not told of an error in the block: it would cancel the tasks that see the children through.
        await self._tasks.__aexit__(None, None, None)

    async def start(self, facts: ServerFacts | None = None) -> None:
        """Serve what is configured.

        Args:
            facts: What is known of the only server; None if nothing is: then each is tried beside its users.
        """
        for configuration in self._configuration.servers:
            await self._add(configuration, facts)

    async def apply(self, configuration: Configuration) -> Changed:
        """Serve another configuration; return what that has changed. Nothing else is disturbed.

        A server that is gone lets its calls finish, within the grace of a shutdown. What belongs to the
        node as a whole stays as it was until a restart; that is logged.

        Raises:
            ConfigError: It has another `auth.mode`, so it says who may use its servers for other principals
                than there are. Nothing is changed.
        """
        mode, found = self._configuration.auth.mode, configuration.auth.mode
        if mode != found:
            raise ConfigError(f'auth.mode: expected "{mode}" until a restart, found "{found}"')
        _log_what_waits(self._configuration, configuration)
        new = {server.recipe.name: server for server in configuration.servers}
        removed = [name for name in self._servers if name not in new]
        for name in removed:
            self._remove(name, configuration.drain_grace)
        added, changed = [], []
        for name, server in new.items():
            served = self._servers.get(name)
            if served is None:
                await self._add(server, None)
                added.append(name)
            elif served.configuration != server:
                self._change(served, server)
                changed.append(name)
        self._configuration = dataclasses.replace(
            self._configuration, servers=configuration.servers, drain_grace=configuration.drain_grace
        )
        return Changed(tuple(added), tuple(changed), tuple(removed))

    def revoke(self, principal: Principal) -> None:
        """End all that a principal has, on every server, at once."""
        logger.info("principal.revoked", extra={"principal": principal.subject})
        for served in self._all():
            served.manager.revoke(principal, "the key was revoked or has expired")

    def end_all(self) -> None:
        """End every session of every server, for good."""
        for served in self._all():
            served.manager.end_all("the broker is shutting down")

    async def drain(self) -> None:
        """Open nothing new, and wait until no client waits for an answer, within the grace."""
        grace = self._configuration.drain_grace
        async with asyncio.TaskGroup() as draining:
            for served in self._all():
                draining.create_task(served.manager.drain(grace))

    # Servers.

    def _all(self) -> Iterator[_Served]:
        yield from (*self._servers.values(), *self._leaving)

    async def _add(self, configuration: ServerConfiguration, facts: ServerFacts | None) -> None:
        manager = SessionManager(
            recipe_of(configuration),
            self._supervisor,
            settings=configuration.sessions,
            bridge_settings=configuration.bridge,
            ids=self._ids,
            quotas=self._quotas,
            facts=facts,
        )
        served = _Served(configuration, manager)
        self._servers[configuration.recipe.name] = served
        started = asyncio.Event()
        served.done = self._tasks.create_task(self._hold(served, started), name=f"server {manager.name}")
        await started.wait()
        self._app.mount(manager, configuration.path, principals=configuration.principals)
        logger.info("server.served", extra={"server": manager.name, "path": configuration.path})
        if facts is None:
            self._begin_trial(served)

    async def _hold(self, served: _Served, started: asyncio.Event) -> None:
        async with served.manager:
            started.set()
            await served.stop.wait()

    def _change(self, served: _Served, configuration: ServerConfiguration) -> None:
        before, served.configuration = served.configuration, configuration
        served.manager.reconfigure(recipe_of(configuration), configuration.sessions, configuration.bridge)
        self._app.mount(served.manager, configuration.path, principals=configuration.principals)
        logger.info("server.changed", extra={"server": served.manager.name})
        if configuration.principals is not None:
            for principal in served.manager.principals():
                if principal.subject not in configuration.principals:
                    served.manager.revoke(principal, "it may not use this server any more")
        if recipe_of(before) != recipe_of(configuration):
            self._begin_trial(served)

    def _remove(self, name: str, grace: float) -> None:
        served = self._servers.pop(name)
        self._leaving.add(served)
        served.end_trial()
        logger.info("server.removed", extra={"server": name})
        self._tasks.create_task(self._end(served, grace), name=f"end {name}")

    async def _end(self, served: _Served, grace: float) -> None:
        """Let the calls of a server that was removed finish; their clients reach them until then."""
        await served.manager.drain(grace)
        self._app.unmount(served.configuration.path, served.manager)
        served.manager.end_all("the server was removed from the configuration")
        served.stop.set()
        if served.done is not None:
            await served.done
        self._leaving.discard(served)

    # Trials.

    def _begin_trial(self, served: _Served) -> None:
        served.end_trial()
        served.trial = self._tasks.create_task(self._trying(served), name=f"try {served.manager.name}")

    async def _trying(self, served: _Served) -> None:
        try:
            await self._try(served)
        except Exception:  # an entry point: a mistake of ours must not end what is served
            logger.exception("server.not_tried", extra={"server": served.manager.name})

    async def _try(self, served: _Served) -> None:
        """Find out beside its users whether a server starts; tell its operator if not, and go on trying."""
        told, interval = "", FIRST_TRIAL_INTERVAL
        while (problem := await self._trial(served)) is not None:
            served.manager.note_trial(problem)
            if problem != told:
                logger.warning(
                    "server.does_not_start", extra={"server": served.manager.name, "problem": problem}
                )
            told = problem
            await asyncio.sleep(interval)
            interval = min(2 * interval, MAX_TRIAL_INTERVAL)
            if served.manager.statistics().problem is None:  # somebody has used it meanwhile
                return

    async def _trial(self, served: _Served) -> str | None:
        """Start a server once; return what is wrong, or None if nothing is, or there is no telling."""
        recipe, settings = recipe_of(served.configuration), served.configuration.sessions
        try:
            await probe_isolation(served.configuration.isolation)
            agreement = await probe(
                recipe,
                self._supervisor,
                served.manager.facts,
                client_name="stdio-broker",
                client_version=__version__,
                timeout=settings.start_timeout,
            )
        except CredentialMissing:
            logger.info("server.not_tried", extra={"server": recipe.name, "reason": "it needs a credential"})
            return None
        except BrokerError as exc:
            return str(exc)
        served.manager.note_trial(None)
        version = agreement.revision.version
        logger.info("server.starts", extra={"server": recipe.name, "version": version})
        return None


def recipe_of(configuration: ServerConfiguration) -> ServerRecipe:
    """Return what a child of a server is, with what keeps it from the rest of the machine."""
    return dataclasses.replace(configuration.recipe, isolation=configuration.isolation)


def _log_what_waits(old: Configuration, new: Configuration) -> None:
    """Log what a reload does not change."""
    for field in dataclasses.fields(Configuration):
        waits = field.name not in {"servers", "drain_grace", "sources"}
        if waits and getattr(old, field.name) != getattr(new, field.name):
            logger.warning("configuration.needs_restart", extra={"key": field.name})
