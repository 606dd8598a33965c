"""A queue in which nothing waits, for all of them: an empty deque takes 760 bytes and some time to make."""

from collections import deque
from typing import Any

__all__ = ["NOTHING"]

#: Never appended to: it would keep nothing.
NOTHING: deque[Any] = deque(maxlen=0)
