"""Every server of a configuration, started once to see what it is; nobody is served meanwhile.

One after the other: how long a start takes, and how much memory, is what its operator wants to know.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from .. import __version__
from ..auth.keys import KEY_ISSUER
from ..config import Configuration, ServerConfiguration
from ..errors import BrokerError, CredentialMissing
from ..sessions import ANONYMOUS, Launch, Principal
from ..sessions.examine import Examination, examine
from ..supervisor import Supervisor, probe_isolation
from .node import recipe_of

__all__ = ["Checked", "check"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    """What came of one server.

    Attributes:
        name: The server's.
        path: Where it would be served.
        program: Its command, without arguments.
        isolation: The level that its children have.
        examination: What was found out; None if it failed or was not tried.
        failure: Why it failed; None if it did not.
        not_tried: Why it was not tried, in words; None if it was.
    """

    name: str
    path: str
    program: str
    isolation: str
    examination: Examination | None = None
    failure: BrokerError | None = None
    not_tried: str | None = None

    @property
    def status(self) -> Literal["ok", "failed", "not tried"]:
        """What came of it, in a word."""
        if self.examination is not None:
            return "ok"
        return "failed" if self.failure is not None else "not tried"


async def check(
    configuration: Configuration, *, principal: str | None, on_begin: Callable[[str], None]
) -> tuple[Checked, ...]:
    """Start every server once, and return what came of each; a broken one stops no other.

    Args:
        configuration: What would be served.
        principal: Name of the one whose credentials are used; None uses nobody's.
        on_begin: Called with the name of each server before it is tried.
    """
    checked = []
    async with Supervisor() as supervisor:
        for server in configuration.servers:
            on_begin(server.recipe.name)
            checked.append(await _check(server, _who(configuration, principal), supervisor))
    return tuple(checked)


def _who(configuration: Configuration, name: str | None) -> Principal | None:
    if configuration.auth.mode == "none":
        return ANONYMOUS  # there is nobody else, and its credential is whoever's that comes
    return None if name is None else Principal(issuer=KEY_ISSUER, subject=name)


async def _check(server: ServerConfiguration, principal: Principal | None, supervisor: Supervisor) -> Checked:
    name = server.recipe.name
    examination: Examination | None = None
    failure: BrokerError | None = None
    not_tried: str | None = None
    if principal is not None and not (server.principals is None or principal.subject in server.principals):
        not_tried = f"{principal.subject} may not use it"
    else:
        try:
            examination = await _examine(server, principal, supervisor)
        except CredentialMissing:
            if principal is None:
                not_tried = "needs a credential; use --principal"
            else:
                failure = BrokerError(f"{principal.subject} has no credential for it")
        except BrokerError as exc:
            failure = exc
    return Checked(
        name=name,
        path=server.path,
        program=str(server.recipe.config.cmd[0]),
        isolation=server.isolation.level,
        examination=examination,
        failure=failure,
        not_tried=not_tried,
    )


async def _examine(
    server: ServerConfiguration, principal: Principal | None, supervisor: Supervisor
) -> Examination:
    await probe_isolation(server.isolation)
    return await examine(
        await _launch(server, principal),
        supervisor,
        client_name="stdio-broker",
        client_version=__version__,
        timeout=server.sessions.start_timeout,
    )


async def _launch(server: ServerConfiguration, principal: Principal | None) -> Launch:
    recipe = recipe_of(server)
    return await (recipe.sample() if principal is None else recipe.resolve(principal))
