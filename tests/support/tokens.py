"""Credentials that a test can change, and a server whose children differ by them."""

from __future__ import annotations

from stdio_broker.errors import CredentialMissing, CredentialUnavailable
from stdio_broker.sessions import Credential, EnvironmentTemplate, Principal, ServerRecipe
from stdio_broker.supervisor import Config

__all__ = ["Tokens", "recipe_with_token"]


class Tokens:
    """A source of credentials (`CredentialSource`).

    Attributes:
        tokens: Who has which now; another one has none.
        reachable: Whether it answers at all.
    """

    per_principal = True

    def __init__(self, tokens: dict[Principal, str]) -> None:
        self.tokens = tokens
        self.reachable = True

    async def resolve(self, principal: Principal) -> Credential:
        """Return what a principal has now."""
        if not self.reachable:
            raise CredentialUnavailable("fake", retry_after=1.0)
        if principal not in self.tokens:
            raise CredentialMissing("fake")
        return Credential(self.tokens[principal])


def recipe_with_token(config: Config, tokens: Tokens) -> ServerRecipe:
    """Return a server whose children have the token of their principal in `TOKEN`."""
    environment = EnvironmentTemplate.parse({"TOKEN": "${credential.token}"})
    return ServerRecipe("fake", config, environment=environment, credentials=tokens)
