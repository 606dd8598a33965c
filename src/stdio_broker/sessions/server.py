"""The recipe of a server: how to start a child of it."""

from dataclasses import dataclass, field

from ..supervisor import Config

__all__ = ["ServerRecipe"]


@dataclass(frozen=True, slots=True)
class ServerRecipe:
    """A configured stdio MCP server.

    Attributes:
        name: What operators call it.
        config: How a child of it is started and stopped.
        secrets: Values in its environment that must not appear in anything that is shown or logged.
    """

    name: str
    config: Config
    secrets: frozenset[str] = field(default=frozenset(), repr=False)
