"""What an operator hears of a refused request: a client's own mistakes are its own business."""

import logging

from ..errors import SpawnError, Unavailable

__all__ = ["report"]

logger = logging.getLogger(__name__)

#: A foreign Host or Origin: an attack, or an --allow-host that is missing.
OPERATORS_REFUSALS = frozenset({403, 421})


def report(exc: Exception, status: int) -> None:
    """Log what an operator can do something about."""
    if isinstance(exc, SpawnError):
        logger.warning("server.start_failed", extra={"problem": str(exc)})
    elif isinstance(exc, Unavailable) or status in OPERATORS_REFUSALS:
        logger.info("request.refused", extra={"status": status, "problem": str(exc)})
