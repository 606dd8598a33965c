"""Start a server once, to find out whether it speaks MCP, before anybody depends on it."""

import asyncio
from typing import cast

from ..protocol.handshake import Agreement
from ..supervisor import Supervisor
from .facts import ServerFacts
from .server import ServerRecipe
from .trial import LegacyConversation, ModernConversation, ProbeFailed, trial

__all__ = ["ProbeFailed", "probe"]


async def probe(
    server: ServerRecipe,
    supervisor: Supervisor,
    facts: ServerFacts,
    *,
    client_name: str,
    client_version: str,
    timeout: float,  # noqa: ASYNC109 - part of what is being measured, and named in the error
) -> Agreement:
    """Start a child of the server, shake hands with it, and stop it; once more if it takes no `initialize`.

    Args:
        server: What to start.
        supervisor: Starts it.
        facts: What is learnt of its eras is noted here.
        client_name: Who we say we are.
        client_version: The version we say we are.
        timeout: Seconds from the start to the answer.

    Raises:
        CredentialMissing: A child needs the credential of a principal.
        CredentialUnavailable: The operator's own credential cannot be had.
        SpawnError: The command cannot be started.
        ProbeFailed: It ended, answered with an error or nonsense, or not in time.
    """
    launch = await server.sample()
    began = asyncio.get_running_loop().time()
    client = client_name, client_version
    agreement = await trial(
        launch, supervisor, lambda child: LegacyConversation(child, *client), timeout=timeout
    )
    if agreement is not None:
        facts.speaks_legacy = True
        facts.handshake_seconds = asyncio.get_running_loop().time() - began
        return agreement
    facts.speaks_legacy = False
    agreement = await trial(
        launch, supervisor, lambda child: ModernConversation(child, *client), timeout=timeout
    )
    facts.speaks_modern = True
    return cast("Agreement", agreement)  # what is no agreement is a problem here
