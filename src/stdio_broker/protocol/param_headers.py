"""`Mcp-Param-*`: headers that repeat arguments of a tool call, as the tool's schema asks for. Pure.

A property of a tool's `inputSchema` may carry `x-mcp-header`; a call then repeats that argument in a
header, and both must say the same. Which they are is learnt from the results of `tools/list`. What is
not known is not checked: a tool that was never listed, one without such properties, one whose
definition breaks a rule (clients must drop it), and what is beyond the bounds below.

Source: MCP 2026-07-28, basic/transports/streamable-http, "Custom Headers from Tool Parameters"
(SEP-2243); server/tools, "x-mcp-header".
"""

import re
from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass, field
from decimal import Decimal

import msgspec

from .headers import decode_value, header_mismatch, quoted
from .jsonrpc import Members

__all__ = ["ParamHeaders"]

# What a child can make us do. Nothing else is served while a page is read, so together the first five
# keep that below 50 ms, and the others keep what is remembered below 10 MB. Real servers need some
# milliseconds and some kilobytes.

#: Bytes of a page that is looked at.
MAX_PAGE_BYTES = 2 * 1024 * 1024

#: Tools looked at in one page. A list of more is no list that a model could be shown.
MAX_LISTED = 1024

#: Bytes of a schema that is decoded. A model has to read it too, so real ones are far below.
MAX_SCHEMA_BYTES = 64 * 1024

#: The same for all schemas of one page that may have annotations; what comes behind is not decoded.
MAX_DECODED_BYTES = 256 * 1024

#: Schemas, one within the other, that are visited in one page; what comes behind is not.
MAX_VISITED = 8 * 1024

#: Tools remembered, each with at least one header.
MAX_TOOLS = 256

#: Headers of one tool. HTTP servers and proxies take about a hundred fields in a request, all told.
MAX_HEADERS = 8

#: Names on the way to a property, its own included. Arguments deeper than that are not for routing.
MAX_DEPTH = 4

#: Characters of a tool's, a property's or a header's name: what MCP recommends for tools.
MAX_NAME_LENGTH = 128

#: Members in one object of the arguments, where a header repeats one of them. Each takes a moment, and
#: meanwhile nothing else is served.
MAX_MEMBERS = 16 * 1024

#: Bytes of an argument that are decoded for a message, which shows even less.
MAX_SHOWN_BYTES = 512

_ANNOTATION = "x-mcp-header"
_PREFIX = "Mcp-Param-"
_FIELD_PREFIX = _PREFIX.lower().encode()

# A name may be written with escapes, so where there are any of its letters the text tells nothing.
_MAY_ANNOTATE = re.compile(rb"x-mcp-header|\\u00[267]")
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_TYPES = ("string", "integer", "boolean")

#: Where JSON Schema has schemas below a schema: by name, or as one or a list of them. 2020-12, and
#: what older drafts called otherwise. All else is data, in which `x-mcp-header` means nothing.
_PROPERTIES = "properties"
_NAMED_SCHEMAS = frozenset(
    {_PROPERTIES, "patternProperties", "dependentSchemas", "dependencies", "$defs", "definitions"}
)
_SCHEMAS = frozenset(
    {
        "additionalItems",
        "additionalProperties",
        "allOf",
        "anyOf",
        "contains",
        "contentSchema",
        "else",
        "if",
        "items",
        "not",
        "oneOf",
        "prefixItems",
        "propertyNames",
        "then",
        "unevaluatedItems",
        "unevaluatedProperties",
    }
)

# As JSON writes numbers. A longer exponent than nine digits is beyond what Decimal takes everywhere.
_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]{1,9})?")

# RecursionError: nesting deeper than the interpreter allows. UnicodeDecodeError: no UTF-8.
_MALFORMED = (msgspec.DecodeError, RecursionError, UnicodeDecodeError)

Path = tuple[str, ...]


class _Tool(msgspec.Struct, rename="camel"):
    name: str
    input_schema: msgspec.Raw


# Elements beyond the last are skipped, not built.
_page_decoder = msgspec.json.Decoder(
    msgspec.defstruct(
        "_Page",
        [(f"tool_{index}", msgspec.Raw, msgspec.Raw()) for index in range(MAX_LISTED)],
        array_like=True,
    )
)
_tool_decoder = msgspec.json.Decoder(_Tool)
_schema_decoder = msgspec.json.Decoder()
_string_decoder = msgspec.json.Decoder(str)


@dataclass(frozen=True, slots=True)
class _Header:
    """One header, and the property that it repeats."""

    name: str
    path: Path
    integer: bool

    @property
    def field(self) -> bytes:
        return self.name.lower().encode()


@dataclass(slots=True)
class _Place:
    """A place in the arguments of a tool: a header repeats what is there, or what is below."""

    header: _Header | None = None
    below: dict[str, "_Place"] = field(default_factory=dict)


class ParamHeaders:
    """Which arguments of which tools have to be repeated in headers.

    What is remembered is bounded by the constants of this module.
    """

    def __init__(self) -> None:
        self._tools: dict[str, _Place] = {}

    @classmethod
    def empty(cls) -> "ParamHeaders":
        """Return one that knows no tool yet, so that nothing is checked."""
        return cls()

    def add_page(self, result: Members) -> None:
        """Learn from one page of `tools/list`. What is malformed in it is passed over.

        Args:
            result: The members of the child's result.
        """
        tools = result.get("tools")
        if tools is None or len(tools) > MAX_PAGE_BYTES or not _MAY_ANNOTATE.search(tools):
            return
        try:
            page = _page_decoder.decode(tools)
        except _MALFORMED:
            return
        visits = _Visits()
        decoded_bytes = 0
        # What the page is too short for is left at its default, which is empty; no element is.
        for tool in msgspec.structs.astuple(page):
            if tool and _MAY_ANNOTATE.search(tool):
                decoded_bytes += len(tool)
                if decoded_bytes > MAX_DECODED_BYTES or visits.left < 0:
                    return
                self._add(tool, visits)

    def _add(self, raw: msgspec.Raw, visits: "_Visits") -> None:
        try:
            tool = _tool_decoder.decode(raw)
            if len(tool.name) > MAX_NAME_LENGTH or len(tool.input_schema) > MAX_SCHEMA_BYTES:
                return
            schema = _schema_decoder.decode(tool.input_schema)
        except _MALFORMED:
            return
        headers = _valid_headers(schema, visits)
        if headers and (tool.name in self._tools or len(self._tools) < MAX_TOOLS):
            self._tools[tool.name] = _placed(headers)

    def check(
        self,
        tool: str,
        arguments: msgspec.Raw | None,
        fields: Sequence[tuple[bytes, bytes]],
        request_id: bytes,
    ) -> None:
        """Refuse a call whose `Mcp-Param-*` headers do not say what its arguments say.

        They must be there together and be equal, or be absent together; null is absent. Headers that
        the tool does not ask for mean nothing.

        Args:
            tool: The name of the tool that is called.
            arguments: Its arguments, raw, or None if there are none.
            fields: All header fields of the request: names in lower case, in their order, none joined.
            request_id: The raw JSON token of the request's id.

        Raises:
            LocalProtocolError: A header is missing, repeated, malformed or different, or what it
                repeats stands twice in the arguments (-32020).
        """
        root = self._tools.get(tool)
        if root is None:
            return
        received: dict[bytes, list[bytes]] = {}
        for name, value in fields:
            if name.startswith(_FIELD_PREFIX):
                received.setdefault(name, []).append(value)
        try:
            for header, argument in _arguments(root, arguments):
                fault = _difference(header, received.get(header.field, []), argument)
                if fault is not None:
                    raise header_mismatch(header.name, fault, request_id)
        except _MALFORMED as exc:
            fault = f"cannot be compared with the arguments: {exc}"
            raise header_mismatch(_PREFIX + "*", fault, request_id) from None


@dataclass(slots=True)
class _Visits:
    """How many more schemas are visited in a page; below 0 if one was not, so that the rest is unknown."""

    left: int = MAX_VISITED


def _valid_headers(schema: object, visits: _Visits) -> list[_Header]:
    """Return the headers that a schema asks for; none if a single one breaks a rule of "Schema Extension"."""
    headers: dict[bytes, _Header] = {}
    for path, annotated in _annotated(schema, visits):
        header = _header(path, annotated)
        if header is None or header.field in headers or len(headers) == MAX_HEADERS:
            return []
        headers[header.field] = header
    return list(headers.values()) if visits.left >= 0 else []


def _annotated(schema: object, visits: _Visits) -> Iterator[tuple[Path | None, dict[str, object]]]:
    """Find every schema that carries an annotation, and the way to it: None if arguments have no such way."""
    waiting: list[tuple[Path | None, object]] = [((), schema)]
    while waiting:
        path, node = waiting.pop()
        visits.left -= 1
        if visits.left < 0:
            return
        if isinstance(node, list):
            waiting += ((None, item) for item in node)
        if not isinstance(node, dict):
            continue
        if _ANNOTATION in node:
            yield path, node
        for keyword, below in node.items():
            if keyword in _SCHEMAS:
                waiting.append((None, below))
            elif keyword in _NAMED_SCHEMAS and isinstance(below, dict):
                way = path if keyword == _PROPERTIES else None
                waiting += ((_further(way, name), item) for name, item in below.items())


def _further(path: Path | None, name: str) -> Path | None:
    if path is None or len(path) == MAX_DEPTH or len(name) > MAX_NAME_LENGTH:
        return None
    return (*path, name)


def _header(path: Path | None, annotated: dict[str, object]) -> _Header | None:
    name, kind = annotated[_ANNOTATION], annotated.get("type")
    # The path of the root is empty, and the arguments as a whole are no parameter.
    if not path or kind not in _TYPES or not isinstance(name, str):
        return None
    if len(name) > MAX_NAME_LENGTH or not _TOKEN.fullmatch(name):
        return None
    return _Header(_PREFIX + name, path, integer=kind == "integer")


def _placed(headers: list[_Header]) -> _Place:
    root = _Place()
    for header in headers:
        place = root
        for name in header.path:
            place = place.below.setdefault(name, _Place())
        place.header = header
    return root


def _arguments(place: _Place, value: msgspec.Raw | None) -> Iterator[tuple[_Header, msgspec.Raw | None]]:
    """Yield every header below a place, with the argument that it repeats; None if that is absent."""
    if place.header is not None:
        yield place.header, value
    if place.below:
        members = _pick(value, place.below)
        for name, lower in place.below.items():
            yield from _arguments(lower, members.get(name))


def _pick(value: msgspec.Raw | None, wanted: Container[str]) -> Members:
    """Return the wanted members of a value: none if it is no object."""
    if value is None or _first_byte(value) != b"{":
        return {}
    decoder = msgspec.json.Decoder(dict[_Name, msgspec.Raw], dec_hook=_Picker(wanted))
    return {name[1:]: member for name, member in decoder.decode(value).items() if name}


class _Name(str):
    """The name of a member, of a type of its own so that msgspec asks us for each."""

    __slots__ = ()


class _Picker:
    """Gives all members that are not wanted one name, so that only the last of them is kept.

    A wanted one may stand once only: the child may read another copy than we do, and the arguments are
    forwarded as they are.
    """

    def __init__(self, wanted: Container[str]) -> None:
        self._wanted = wanted
        self._picked: set[str] = set()
        self._names = 0

    def __call__(self, kind: type[_Name], name: str) -> _Name:
        self._names += 1
        if self._names > MAX_MEMBERS:
            raise ValueError(f"expected at most {MAX_MEMBERS} members in an object")
        if name not in self._wanted:
            return kind()
        if name in self._picked:
            raise ValueError(f"expected {quoted(name)} once")
        self._picked.add(name)
        # One letter more, so that a wanted name that is empty is not taken for an unwanted one.
        return kind("=" + name)


def _first_byte(value: msgspec.Raw) -> bytes:
    return bytes(memoryview(value)[:1])


def _difference(header: _Header, received: list[bytes], argument: msgspec.Raw | None) -> str | None:
    if len(received) > 1:
        return "is there more than once; expected it once"
    where = quoted(".".join(header.path))
    absent = argument is None or _first_byte(argument) == b"n"  # null
    if not received:
        return None if absent else f"is missing; expected one, as the body has {where}"
    value = received[0].decode("latin-1")
    try:
        text = decode_value(value)
    except ValueError as exc:
        return f"value {quoted(value)} is malformed: {exc}"
    if argument is None or absent:
        return f"value {quoted(text)} is unexpected: the body has no {where}"
    if _equal(text, argument, integer=header.integer):
        return None
    return f"value {quoted(text)} does not match body value {_shown(argument)} of {where}"


def _equal(text: str, argument: msgspec.Raw, *, integer: bool) -> bool:
    """Compare as "Value Encoding" writes values. No header can equal an object or an array."""
    first = _first_byte(argument)
    if first in b"{[":
        return False
    if first == b'"':
        return text == _string_decoder.decode(argument)
    # A number or a boolean, whose JSON is the text of the header too.
    token = bytes(argument).decode()
    return text == token or (integer and _same_number(text, token))


def _same_number(one: str, other: str) -> bool:
    if not (_NUMBER.fullmatch(one) and _NUMBER.fullmatch(other)):
        return False
    return Decimal(one) == Decimal(other)


def _shown(argument: msgspec.Raw) -> str:
    return quoted(bytes(memoryview(argument)[:MAX_SHOWN_BYTES]).decode(errors="replace"))
