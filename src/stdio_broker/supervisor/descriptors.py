"""The limit on open files: ours as high as it goes, a child's as it was.

A child costs four descriptors of ours, so the usual soft limit of 1,024 ends at 250 children.
But programs that use select(2) misbehave with descriptors above 1,023, which is why the soft
limit is low to begin with (systemd raises only the hard one for that reason).
"""

import logging
import resource

__all__ = ["raise_descriptor_limit", "restore_descriptor_limit"]

logger = logging.getLogger(__name__)

_original: tuple[int, int] | None = None


def raise_descriptor_limit() -> None:
    """Raise our soft limit on open files to the hard one. Children keep the soft limit of before."""
    global _original  # noqa: PLW0603 - the limit is a fact of the process, not of an object
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == hard:
        return
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    except ValueError:
        return  # macOS refuses "unlimited" here; the soft limit then stays
    if _original is None:
        _original = soft, hard


def restore_descriptor_limit(pid: int) -> None:
    """Give a child that has just been started the soft limit that we had, if the system lets us."""
    if _original is None or not hasattr(resource, "prlimit"):
        return
    try:
        resource.prlimit(pid, resource.RLIMIT_NOFILE, _original)
    except OSError as exc:
        # A set-uid program (sudo), or a seccomp filter: no reason to refuse the child.
        logger.debug("child.descriptor_limit_kept", extra={"pid": pid, "error": exc.strerror})
