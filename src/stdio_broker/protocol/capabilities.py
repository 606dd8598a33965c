"""What a client can be asked for: one value for both ways of declaring it. Pure.

A legacy client declares its capabilities once, in `initialize`; a modern one with every request.
Here they are read from either, written as the other, and compared with what a question needs.
Capabilities that the revisions do not share (tasks, extensions) do not cross.

Source: MCP 2026-07-28, client/{elicitation,sampling,roots}, "Capabilities"; MCP 2025-11-25, the same.
"""

import functools
from dataclasses import dataclass, replace

import msgspec

from .jsonrpc import Members, encode, object_members, string_member
from .revisions import Revision

__all__ = [
    "ELICIT",
    "LIST_ROOTS",
    "QUESTION_METHODS",
    "SAMPLE",
    "ClientCapabilities",
    "declared_capabilities",
    "modern_capabilities",
    "read_legacy",
    "read_modern",
]

ELICIT = "elicitation/create"
SAMPLE = "sampling/createMessage"
LIST_ROOTS = "roots/list"

#: All that a server may ask its client.
QUESTION_METHODS = frozenset({ELICIT, SAMPLE, LIST_ROOTS})

_FORM, _URL = "form", "url"
_TOOLS, _CONTEXT = "tools", "context"

#: Longest declaration that is remembered with what it means. Clients say the same with every request.
MAX_REMEMBERED_BYTES = 256

_NOTHING = msgspec.Raw(b"{}")
_NULL = msgspec.Raw(b"null")


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientCapabilities:
    """The questions that a client takes. Two clients with equal values can share a child.

    Attributes:
        form: The user can be asked with a form.
        url: The user can be sent to a page.
        sampling: The client's model can be used.
        sampling_tools: It can be offered tools.
        sampling_context: It can be given context of this or of all servers.
        roots: The client tells its roots.
    """

    form: bool = False
    url: bool = False
    sampling: bool = False
    sampling_tools: bool = False
    sampling_context: bool = False
    roots: bool = False

    def for_initialize(self) -> dict[str, object]:
        """Return what to declare in an `initialize` of the newest legacy revision.

        An older child takes any `elicitation` for forms, also where only pages were meant; so what
        it asks is to be compared with the `narrowed` capabilities.
        """
        declared: dict[str, object] = {}
        if self.form or self.url:
            declared["elicitation"] = _flags(form=self.form, url=self.url)
        if self.sampling:
            declared["sampling"] = _flags(tools=self.sampling_tools, context=self.sampling_context)
        if self.roots:
            declared["roots"] = {"listChanged": False}
        return declared

    def narrowed(self, revision: Revision) -> "ClientCapabilities":
        """Return what is left of them in a revision.

        Context for a model stays: before there was a capability for it, `sampling` was enough.
        """
        return replace(
            self,
            form=self.form and revision.elicitation,
            url=self.url and revision.url_elicitation,
            sampling_tools=self.sampling_tools and revision.sampling_tools,
        )

    def missing_for(self, method: str, params: Members | None) -> dict[str, object] | None:
        """Return what a client would have to declare to be asked this, and did not; None if nothing.

        Args:
            method: One of `QUESTION_METHODS`. No capability covers another one, so it is named where
                those stand that are not of the specification.
            params: The question's params.
        """
        if method == ELICIT:
            return self._missing_to_elicit(string_member(params, "mode") or _FORM)
        if method == SAMPLE:
            return self._missing_to_sample(params or {})
        if method == LIST_ROOTS:
            return None if self.roots else {"roots": {}}
        return {"experimental": {method: {}}}

    def _missing_to_elicit(self, mode: str) -> dict[str, object] | None:
        if (mode == _FORM and self.form) or (mode == _URL and self.url):
            return None
        return {"elicitation": {mode: {}}}

    def _missing_to_sample(self, params: Members) -> dict[str, object] | None:
        tools = any(params.get(name, _NULL) != _NULL for name in ("tools", "toolChoice"))
        # Any other value asks for no context.
        context = string_member(params, "includeContext") in {"thisServer", "allServers"}
        missing = _flags(
            tools=tools and not self.sampling_tools, context=context and not self.sampling_context
        )
        return None if self.sampling and not missing else {"sampling": missing}


def read_modern(raw: msgspec.Raw) -> ClientCapabilities:
    """Read the capabilities that a modern request declares; what is no object declares nothing."""
    return declared_capabilities(raw) or ClientCapabilities()


def declared_capabilities(raw: msgspec.Raw) -> ClientCapabilities | None:
    """Read the capabilities that a modern request declares; None if this is no object.

    An `elicitation` that names no mode means forms (MCP 2026-07-28, client/elicitation).
    """
    return _remembered(bytes(raw)) if len(raw) <= MAX_REMEMBERED_BYTES else _read(raw)


@functools.lru_cache(maxsize=128)
def _remembered(declared: bytes) -> ClientCapabilities | None:
    return _read(msgspec.Raw(declared))


def _read(raw: msgspec.Raw) -> ClientCapabilities | None:
    declared = object_members(raw)
    if declared is None:
        return None
    elicitation = object_members(declared.get("elicitation"))
    sampling = object_members(declared.get("sampling"))
    url = _declares(elicitation, _URL)
    return ClientCapabilities(
        form=_declares(elicitation, _FORM) or (elicitation is not None and not url),
        url=url,
        sampling=sampling is not None,
        sampling_tools=_declares(sampling, _TOOLS),
        sampling_context=_declares(sampling, _CONTEXT),
        roots=object_members(declared.get("roots")) is not None,
    )


def read_legacy(raw: msgspec.Raw, revision: Revision) -> ClientCapabilities:
    """Read the capabilities that a client declared in an `initialize` of this revision."""
    capabilities = read_modern(raw)
    if not revision.url_elicitation:
        # No modes yet: whatever stands in it, `elicitation` is a form.
        capabilities = replace(capabilities, form=capabilities.form or capabilities.url)
    if not revision.sampling_tools:
        # No capability for context yet: whoever takes sampling takes it, and may ignore it.
        capabilities = replace(capabilities, sampling_context=capabilities.sampling)
    return capabilities.narrowed(revision)


def modern_capabilities(legacy_raw: msgspec.Raw | None, revision: Revision) -> msgspec.Raw:
    """Return what a legacy client declared as a modern request declares it.

    Args:
        legacy_raw: The `capabilities` of its `initialize`; None if there were none.
        revision: What was agreed on with it.
    """
    declared = object_members(legacy_raw) or {}
    capabilities: Members = {}
    if revision.elicitation:
        # Where an older client names a mode, it is none that its revision knows.
        _carry(declared, capabilities, "elicitation", () if revision.url_elicitation else (_FORM, _URL))
    _carry(declared, capabilities, "sampling", () if revision.sampling_tools else (_TOOLS, _CONTEXT))
    # Nobody may tell a modern server that the roots changed.
    _carry(declared, capabilities, "roots", ("listChanged",))
    _carry(declared, capabilities, "experimental", ())
    return msgspec.Raw(encode(capabilities)) if capabilities else _NOTHING


def _carry(declared: Members, capabilities: Members, name: str, without: tuple[str, ...]) -> None:
    """Take over one capability, less some of its members; to the byte if it has none of them."""
    members = object_members(declared.get(name))
    if members is None:
        return
    if members.keys().isdisjoint(without):
        capabilities[name] = declared[name]
        return
    kept = {member: value for member, value in members.items() if member not in without}
    capabilities[name] = msgspec.Raw(encode(kept))


def _declares(members: Members | None, name: str) -> bool:
    return members is not None and object_members(members.get(name)) is not None


def _flags(**declared: bool) -> dict[str, object]:
    return {name: {} for name, is_declared in declared.items() if is_declared}
