"""The recipe of a server: how to start a child of it."""

import dataclasses
import logging
from dataclasses import dataclass, field

from ..supervisor import Config
from ..telemetry import redact

__all__ = ["ServerRecipe"]

logger = logging.getLogger(__name__)


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

    def config_of(self, **owner: str) -> Config:
        """Return how to start a child whose stderr is in the log, if debug is.

        Args:
            owner: Whose child it is, for the log.
        """
        if not logger.isEnabledFor(logging.DEBUG):
            return self.config

        def log(line: str) -> None:
            logger.debug("child.stderr", extra={**owner, "line": redact(line, self.secrets)})

        return dataclasses.replace(self.config, on_stderr=log)
