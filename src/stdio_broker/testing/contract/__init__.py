"""What a child promises, as tests: the fake one and the real one pass the same.

Source of the rules: `docs/supervisor.md`; MCP 2025-11-25, basic/transports, "stdio", and
basic/lifecycle, "Shutdown".
"""

from .base import COMPLAINT, FLOOD_LINE, FLOOD_LINES, SPEECH, Behaviour
from .exit import ExitRules
from .stdin import StdinRules
from .stdout import StdoutRules
from .stop import StopRules

__all__ = ["COMPLAINT", "FLOOD_LINE", "FLOOD_LINES", "SPEECH", "Behaviour", "ChildContract"]


class ChildContract(StdinRules, StdoutRules, ExitRules, StopRules):
    """All rules. Subclass it with a name that pytest collects, and write `start`.

    Every test is a coroutine without arguments, so any plugin that runs async tests will do. To
    have failures explained, call `pytest.register_assert_rewrite("stdio_broker.testing.contract")`
    in a `conftest.py`, before anything imports it.
    """
