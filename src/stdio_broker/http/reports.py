"""What client and operator hear of a request that went wrong; a client's own mistakes are its business."""

import logging

from ..errors import SpawnError, Unavailable
from .faults import answer_to
from .wire import HttpRequest

__all__ = ["answer_fault", "report"]

logger = logging.getLogger(__name__)

#: A foreign Host or Origin: an attack, or an --allow-host that is missing.
OPERATORS_REFUSALS = frozenset({403, 421})

#: What is logged of a path, which is the client's own.
MAX_PATH_CHARS = 100


def answer_fault(request: HttpRequest, exc: Exception, request_id: bytes | None) -> None:
    """Answer with what went wrong, and tell the operator; the arguments are those of `answer_to`."""
    answer = answer_to(exc, request_id)
    report(exc, answer.status, request.path)
    request.answer(answer.status, answer.headers, answer.body)


def report(exc: Exception, status: int, path: str) -> None:
    """Log what an operator can do something about.

    Args:
        exc: What went wrong.
        status: The status of the answer.
        path: Of the request; it tells which server was asked for.
    """
    facts = {"path": path[:MAX_PATH_CHARS], "problem": str(exc)}
    if isinstance(exc, SpawnError):
        logger.warning("server.start_failed", extra=facts)
    elif isinstance(exc, Unavailable) or status in OPERATORS_REFUSALS:
        logger.info("request.refused", extra={"status": status, **facts})
