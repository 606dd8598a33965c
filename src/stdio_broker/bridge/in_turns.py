"""Long work in steps, with a turn for everybody else between them."""

import asyncio
from typing import TypeVar

from ..protocol.decoding import Steps

__all__ = ["in_turns"]

Result = TypeVar("Result")


async def in_turns(steps: Steps[Result]) -> Result:
    """Take all steps, one in each turn of the event loop; return what comes of them."""
    while True:
        try:
            next(steps)
        except StopIteration as done:
            result: Result = done.value
            return result
        await asyncio.sleep(0)
