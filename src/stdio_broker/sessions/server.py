"""The recipe of a server: how to start a child of it."""

from dataclasses import dataclass

from ..supervisor import Config

__all__ = ["ServerRecipe"]


@dataclass(frozen=True, slots=True)
class ServerRecipe:
    """A configured stdio MCP server.

    Attributes:
        name: What operators call it.
        config: How a child of it is started and stopped.
    """

    name: str
    config: Config
