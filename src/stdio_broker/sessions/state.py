"""One server as it is now: how it is started, within which bounds, and what is known of it.

Whoever works for the server holds this one object and looks at its fields each time: a changed
configuration replaces them under all of them at once.
"""

import asyncio
from dataclasses import dataclass, field

from ..bridge import Settings as BridgeSettings
from .facts import ServerFacts
from .server import ServerRecipe
from .settings import Settings

__all__ = ["ServerState"]


@dataclass(slots=True)
class ServerState:
    """A server, as configured and as found.

    Attributes:
        recipe: How a child of it is started.
        settings: Bounds of its sessions.
        bridge: Bounds of each bridge.
        facts: What is known of it.
        problem: Why it did not start when it was tried; None if it did, or has since.
        changed: Set when children may run that would be started otherwise now; whoever looks clears it.
    """

    recipe: ServerRecipe
    settings: Settings
    bridge: BridgeSettings
    facts: ServerFacts = field(default_factory=ServerFacts)
    problem: str | None = None
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def name(self) -> str:
        """What operators call it."""
        return self.recipe.name

    def replace(self, recipe: ServerRecipe, settings: Settings, bridge: BridgeSettings) -> None:
        """Take another configuration. What was found out of another program is forgotten."""
        if recipe.config != self.recipe.config:
            self.facts = ServerFacts()
            self.problem = None
        self.recipe, self.settings, self.bridge = recipe, settings, bridge
        self.changed.set()

    def note_started(self, recipe: ServerRecipe) -> None:
        """Note from what a child was started: who looked meanwhile has not seen it yet."""
        if recipe is not self.recipe:
            self.changed.set()
