"""`Mcp-Param-*`: which arguments headers repeat, and that both say the same."""

import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stdio_broker.errors import LocalProtocolError
from stdio_broker.protocol.headers import HEADER_MISMATCH, MAX_SHOWN, encode_value
from stdio_broker.protocol.jsonrpc import Members, object_members
from stdio_broker.protocol.param_headers import (
    MAX_DECODED_BYTES,
    MAX_DEPTH,
    MAX_HEADERS,
    MAX_LISTED,
    MAX_MEMBERS,
    MAX_NAME_LENGTH,
    MAX_PAGE_BYTES,
    MAX_SCHEMA_BYTES,
    MAX_TOOLS,
    MAX_VISITED,
    ParamHeaders,
)

from .strategies import json_values, rendered

Fields = list[tuple[bytes, bytes]]
Json = dict[str, object]

REGION: Json = {"type": "string", "x-mcp-header": "Region"}


def _page(*tools: object) -> Members:
    members = object_members(msgspec.Raw(json.dumps({"tools": tools}).encode()))
    assert members is not None
    return members


def _tool(schema: object, name: str = "run") -> Json:
    return {"name": name, "inputSchema": schema}


def _known(schema: object) -> ParamHeaders:
    headers = ParamHeaders.empty()
    headers.add_page(_page(_tool(schema)))
    return headers


def _object(**properties: object) -> Json:
    return {"type": "object", "properties": properties}


def _fields(**params: str) -> Fields:
    fields = [(b"mcp-name", b"run"), (b"accept", b"a"), (b"accept", b"b")]
    fields += ((b"mcp-param-" + name.encode(), value.encode("latin-1")) for name, value in params.items())
    return fields


def _check(headers: ParamHeaders, arguments: bytes | None, fields: Fields, tool: str = "run") -> None:
    headers.check(tool, None if arguments is None else msgspec.Raw(arguments), fields, b'"seven"')


def _refusal(headers: ParamHeaders, arguments: bytes | None, fields: Fields, tool: str = "run") -> str:
    """Return the message of the error that this call gets; the rest of the error is checked here."""
    with pytest.raises(LocalProtocolError) as caught:
        _check(headers, arguments, fields, tool)
    assert caught.value.code == HEADER_MISMATCH
    assert caught.value.request_id == b'"seven"'
    assert str(caught.value).startswith("Header mismatch: Mcp-Param-")
    return str(caught.value)


def _validates(schema: object) -> bool:
    """Tell whether any header of a tool with this schema is checked: two copies of it never pass."""
    twice = [(b"mcp-param-" + name, b"1") for name in (b"region", b"a", b"b") for _ in range(2)]
    try:
        _check(_known(schema), None, twice)
    except LocalProtocolError:
        return True
    return False


# What must agree


def test_a_call_whose_header_repeats_its_argument_passes() -> None:
    """MCP 2026-07-28, "Schema Extension", example."""
    _check(
        _known(_object(region=REGION)), b'{"region": "us-west1", "query": "x"}', _fields(region="us-west1")
    )


@pytest.mark.parametrize(
    "arguments", [None, b"{}", b'{"region": null}', b"null", b"[]", b'"x"', b'{"Region": "x"}']
)
def test_an_argument_that_is_null_or_absent_has_no_header(arguments: bytes | None) -> None:
    """MCP 2026-07-28, "Server Behavior for Custom Headers"."""
    headers = _known(_object(region=REGION))
    _check(headers, arguments, _fields())
    for value in ("x", "", "null"):
        message = _refusal(headers, arguments, _fields(region=value))
        assert f"value {value!r} is unexpected: the body has no 'region'" in message


def test_an_argument_without_its_header_is_refused() -> None:
    """MCP 2026-07-28, "Server Behavior for Custom Headers": a non-conforming client."""
    message = _refusal(_known(_object(region=REGION)), b'{"region": "x"}', _fields(other="x"))
    rest = "header is missing; expected one, as the body has 'region'"
    assert message == f"Header mismatch: Mcp-Param-Region {rest}"


def test_a_header_that_says_something_else_is_refused() -> None:
    """MCP 2026-07-28, "Server Validation"."""
    message = _refusal(_known(_object(region=REGION)), b'{"region": "us"}', _fields(region="US"))
    rest = "header value 'US' does not match body value '\"us\"' of 'region'"
    assert message == f"Header mismatch: Mcp-Param-Region {rest}"


def test_long_values_are_shown_in_part() -> None:
    """Ours: the answer is not an echo of what was sent."""
    arguments = json.dumps({"region": "x" * 9999}).encode()
    message = _refusal(_known(_object(region=REGION)), arguments, _fields(region="y" * 9999))
    assert len(message) < 100 + 2 * MAX_SHOWN


@pytest.mark.parametrize("value", ["=?base64?dXM?=", "=?base64?/w==?=", "\xe9", "a\0"])
def test_a_malformed_header_is_refused(value: str) -> None:
    """MCP 2026-07-28, "Server Behavior for Custom Headers": invalid characters."""
    headers = _known(_object(region=REGION))
    assert "is malformed" in _refusal(headers, b'{"region": "us"}', _fields(region=value))
    assert "is malformed" in _refusal(headers, None, _fields(region=value))


@pytest.mark.parametrize("arguments", [None, b'{"region": "us"}'])
def test_a_header_that_stands_twice_is_refused_even_if_both_are_right(arguments: bytes | None) -> None:
    """Section 8 of the matrix: readers of the first copy and of the last copy may differ."""
    fields = _fields(region="us")
    assert "more than once" in _refusal(_known(_object(region=REGION)), arguments, [*fields, fields[-1]])


def test_headers_that_the_tool_does_not_ask_for_mean_nothing() -> None:
    """MCP 2026-07-28, "Server Behavior for Custom Headers": not recognized ones are ignored."""
    other = (b"mcp-param-other", b"=?base64?no?=")
    fields = [*_fields(region="us"), other, other, (b"mcp-param-", b"x"), (b"x-mcp-param-region", b"eu")]
    _check(_known(_object(region=REGION)), b'{"region": "us", "other": "x"}', fields)


def test_a_tool_that_was_never_listed_validates_nothing() -> None:
    """Section 8 of the matrix, 4: no schema available must not block the call."""
    _check(ParamHeaders.empty(), b'{"region": "us"}', _fields(region="eu"))
    _check(_known(_object(region=REGION)), b'{"region": "us"}', _fields(region="eu"), tool="Run")


@pytest.mark.parametrize("kind", ["string", "integer", "boolean"])
@pytest.mark.parametrize(
    ("value", "argument"),
    [
        ("us", b'"us"'),
        (" \tus ", b'"us"'),
        ("=?base64?dXM=?=", b'"us"'),
        ("=?base64?IHVz?=", b'" us"'),
        ("=?base64?w6k=?=", b'"\\u00e9"'),
        ("", b'""'),
        ("42", b'"42"'),
        ("42", b"42"),
        ("=?base64?NDI=?=", b"42"),
        ("-7", b"-7"),
        ("1e+21", b"1e+21"),
        ("1.5", b"1.5"),
        ("true", b"true"),
        ("false", b"false"),
    ],
)
def test_a_value_is_written_as_what_it_is_in_the_arguments(kind: str, value: str, argument: bytes) -> None:
    """MCP 2026-07-28, "Value Encoding"; whether it is what the schema says is for the child to judge."""
    schema = _object(region={"type": kind, "x-mcp-header": "Region"})
    _check(_known(schema), b'{"region":%b}' % argument, _fields(region=value))


@pytest.mark.parametrize("kind", ["string", "integer", "boolean"])
@pytest.mark.parametrize(
    ("value", "argument"),
    [
        ("True", b"true"),
        ("1", b"true"),
        ("false", b"true"),
        ("null", b'"us"'),
        ('"us"', b'"us"'),
        ("us ", b'"us "'),
        ("42.5", b"42"),
        ("43", b"42"),
        ("+42", b"42"),
        ("042", b"42"),
        ("4_2", b"42"),
        ("0x2a", b"42"),
        ("42.", b"42"),
        ("٤٢".encode().decode("latin-1"), b"42"),
        ("NaN", b"42"),
        ("1e9999999999", b"42"),
        ("42.0", b'"42"'),
        ("9007199254740993", b"9007199254740992"),
        ("[1]", b"[1]"),
        ("{}", b"{}"),
    ],
)
def test_a_value_that_is_written_otherwise_is_refused(kind: str, value: str, argument: bytes) -> None:
    """MCP 2026-07-28, "Value Encoding"; no header can repeat an object or an array."""
    schema = _object(region={"type": kind, "x-mcp-header": "Region"})
    _refusal(_known(schema), b'{"region":%b}' % argument, _fields(region=value))


@pytest.mark.parametrize("argument", [b"[]", b'{"a": 1}'])
def test_an_object_or_an_array_where_a_header_repeats_a_value_is_refused_without_the_header_too(
    argument: bytes,
) -> None:
    """MCP 2026-07-28, "Server Behavior for Custom Headers": a value is in the body, its header is not."""
    _refusal(_known(_object(region=REGION)), b'{"region":%b}' % argument, _fields())


@pytest.mark.parametrize(
    ("value", "argument"),
    [
        ("42.0", b"42"),
        ("42", b"42.0"),
        ("4.2e1", b"42"),
        ("420E-1", b"42"),
        ("-0", b"0"),
        ("100000000000000000000000", b"1e23"),
        ("9007199254740993.0", b"9007199254740993"),
    ],
)
def test_integers_are_compared_as_numbers_and_only_integers(value: str, argument: bytes) -> None:
    """MCP 2026-07-28, "Server Validation": servers SHOULD compare integer parameters numerically."""
    arguments = b'{"n":%b}' % argument
    _check(_known(_object(n={"type": "integer", "x-mcp-header": "N"})), arguments, _fields(n=value))
    _refusal(_known(_object(n={"type": "string", "x-mcp-header": "N"})), arguments, _fields(n=value))


def test_a_big_integer_is_compared_exactly_and_quickly() -> None:
    """Ours: no rounding, and no quadratic conversion either."""
    headers, digits = _known(_object(n={"type": "integer", "x-mcp-header": "N"})), b"1" * 200_000
    _check(headers, b'{"n":%b}' % digits, _fields(n=digits.decode() + ".0"))
    _refusal(headers, b'{"n":%b2}' % digits, _fields(n=digits.decode() + "1.0"))


def test_an_argument_is_found_by_its_whole_path() -> None:
    """MCP 2026-07-28, "Schema Extension": the instance value at the exact property path."""
    schema = _object(
        region={"type": "string"},
        where=_object(region=REGION, zone=_object(id={"type": "integer", "x-mcp-header": "Zone-Id"})),
    )
    headers = _known(schema)
    arguments = b'{"region": "no", "where": {"zone": {"id": 7, "x": {"id": 8}}, "region": "us"}, "id": 9}'
    right = _fields(**{"region": "us", "zone-id": "7"})
    _check(headers, arguments, right)
    assert "'where.region'" in _refusal(headers, arguments, _fields(**{"region": "no", "zone-id": "7"}))
    assert "'where.zone.id'" in _refusal(headers, arguments, _fields(**{"region": "us", "zone-id": "8"}))
    for absent in (b'{"where": null}', b'{"where": [{"region": "us"}]}', b'{"where": {"zone": 1}}', b"{}"):
        _check(headers, absent, _fields())
        _refusal(headers, absent, right)


def test_a_property_may_be_annotated_and_have_annotated_ones_below() -> None:
    """Nobody forbids it; each is read at its own path."""
    headers = _known(_object(a={"type": "string", "x-mcp-header": "A", "properties": {"b": REGION}}))
    _check(headers, b'{"a": "1"}', _fields(a="1"))
    assert "'a.b'" in _refusal(headers, b'{"a": "1"}', _fields(a="1", region="us"))
    assert "'a'" in _refusal(headers, b'{"a": {"b": "us"}}', _fields(region="us"))


@pytest.mark.parametrize("name", ["", "=", "a.b", "é", 'q"', "\n"])
def test_a_property_may_have_any_name(name: str) -> None:
    headers = _known(_object(**{name: REGION}))
    arguments = json.dumps({"other": 1, name: "us", "more": 2}).encode()
    _check(headers, arguments, _fields(region="us"))
    _refusal(headers, arguments, _fields(region="eu"))
    _check(headers, b'{"other": 1}', _fields())


@pytest.mark.parametrize("twice", [b'"region": "us"', b'"re\\u0067ion": "us"', b'"region": null'])
def test_an_argument_that_stands_twice_is_refused_where_a_header_repeats_it(twice: bytes) -> None:
    """Ours (design, D4): the child may read another copy than we do."""
    headers = _known(_object(region=REGION))
    for arguments in (b'{"region": "us", %b}' % twice, b'{%b, "region": "us"}' % twice):
        assert "expected 'region' once" in _refusal(headers, arguments, _fields(region="us"))
    _check(
        headers, b'{"x": 1, "region": "us", "x": 2, "y": {"region": 1, "region": 2}}', _fields(region="us")
    )


def test_an_object_with_very_many_members_is_refused_where_a_header_repeats_one() -> None:
    """Ours: each takes a moment. Elsewhere in the arguments there may be any number."""
    headers = _known(_object(region=REGION))
    most = b",".join(b'"%d":1' % index for index in range(MAX_MEMBERS - 1))
    _check(headers, b'{"region":"us",%b}' % most, _fields(region="us"))
    assert "at most" in _refusal(headers, b'{"x":1,"region":"us",%b}' % most, _fields(region="us"))
    _check(headers, b'{"x":{"x":1,"y":1,%b},"region":"us"}' % most, _fields(region="us"))


def test_arguments_that_cannot_be_read_are_refused() -> None:
    """Ours: what was not compared is not forwarded."""
    assert "cannot be compared" in _refusal(_known(_object(region=REGION)), b'{"region":', _fields())


# Which schemas ask for headers


@pytest.mark.parametrize("name", ["a", "Region", "!#$%&'*+-.^_`|~09azAZ", "x" * MAX_NAME_LENGTH])
def test_a_header_may_have_any_name_that_is_a_token_in_any_case(name: str) -> None:
    """MCP 2026-07-28, "Schema Extension"; RFC 9110, 5.1: names of fields are case-insensitive."""
    headers = _known(_object(a={"type": "string", "x-mcp-header": name}))
    _check(headers, b'{"a": "1"}', [(b"mcp-param-" + name.lower().encode(), b"1")])
    _refusal(headers, b'{"a": "1"}', _fields())


@pytest.mark.parametrize(
    "name",
    [
        "",
        " ",
        "a b",
        "a:",
        "a\r\nb",
        "a\n",
        "é",
        "\0",
        "(a)",
        "x" * (MAX_NAME_LENGTH + 1),
        None,
        7,
        ["A"],
        {},
    ],
)
def test_a_header_whose_name_is_no_token_makes_the_tool_validate_nothing(name: object) -> None:
    """MCP 2026-07-28, "Schema Extension"; clients must drop the whole tool."""
    assert not _validates(_object(region=REGION, a={"type": "string", "x-mcp-header": name}))


@pytest.mark.parametrize(
    "kind", ["number", "object", "array", "null", "String", ["string", "null"], {}, 1, None]
)
def test_a_header_for_what_is_no_primitive_makes_the_tool_validate_nothing(kind: object) -> None:
    """MCP 2026-07-28, "Schema Extension": string, integer or boolean, and `number` is not permitted."""
    assert not _validates(_object(region=REGION, a={"type": kind, "x-mcp-header": "A"}))
    assert not _validates(_object(region=REGION, a={"x-mcp-header": "A"}))


def test_two_headers_of_one_name_make_the_tool_validate_nothing() -> None:
    """MCP 2026-07-28, "Schema Extension": case-insensitively unique."""
    assert not _validates(_object(region=REGION, a={"type": "string", "x-mcp-header": "rEGION"}))
    assert _validates(_object(region=REGION, a={"type": "string", "x-mcp-header": "rEGION2"}))


@pytest.mark.parametrize(
    "elsewhere",
    [
        {"items": REGION},
        {"prefixItems": [True, REGION]},
        {"items": [REGION]},
        {"items": _object(b=REGION)},
        {"contains": REGION},
        {"additionalProperties": REGION},
        {"patternProperties": {"^a": REGION}},
        {"oneOf": [{"type": "null"}, REGION]},
        {"anyOf": [_object(b=REGION)]},
        {"allOf": [REGION]},
        {"not": REGION},
        {"if": REGION},
        {"then": REGION},
        {"else": REGION},
        {"$defs": {"R": REGION}},
        {"definitions": {"R": REGION}},
        {"dependentSchemas": {"a": REGION}},
        {"properties": {"b": {"anyOf": [REGION]}}},
        {"properties": {"b": {"$ref": "#/$defs/R", "x-mcp-header": "B"}}},
    ],
)
def test_an_annotation_off_the_chain_of_properties_makes_the_tool_validate_nothing(elsewhere: Json) -> None:
    """MCP 2026-07-28, "Schema Extension": anywhere else makes the tool definition invalid."""
    valid = {"a": {"type": "string", "x-mcp-header": "A"}}
    assert _validates(_object(**valid))
    assert not _validates(_object(**valid, c=elsewhere))
    properties = elsewhere.get("properties", {})
    assert isinstance(properties, dict)
    assert not _validates({"type": "object", **elsewhere, "properties": valid | properties})


def test_an_annotation_of_the_arguments_as_a_whole_makes_the_tool_validate_nothing() -> None:
    """MCP 2026-07-28, "Schema Extension": only properties may be annotated."""
    assert not _validates({**REGION, **_object(a={"type": "string", "x-mcp-header": "A"}), "type": "string"})


@pytest.mark.parametrize(
    "data",
    [
        {"default": REGION},
        {"const": REGION},
        {"enum": [REGION]},
        {"examples": [{"x-mcp-header": 7}]},
        {"properties": {"x-mcp-header": {"type": "string"}}},
        {"required": ["x-mcp-header"]},
        {"dependencies": {"a": ["x-mcp-header"]}},
        {"$defs": ["x-mcp-header"], "properties": 7, "allOf": 7},
        {"description": "x-mcp-header", "x-vendor": {"x-mcp-header": 7}},
    ],
)
def test_what_only_looks_like_an_annotation_is_none(data: Json) -> None:
    """JSON Schema 2020-12: values of these keywords are data, and a property may have any name."""
    assert _validates(_object(a={"type": "string", "x-mcp-header": "A"}, c=data))
    assert not _validates(_object(c=data))


def test_an_annotation_with_escapes_in_its_name_is_found() -> None:
    """JSON: a name means what it decodes to."""
    written = (
        rb'[{"name":"run","inputSchema":{"properties":{"a":{"type":"string","x-mcp\u002dheader":"A"}}}}]'
    )
    headers = ParamHeaders.empty()
    headers.add_page({"tools": msgspec.Raw(written)})
    _refusal(headers, b'{"a": "1"}', _fields())


@pytest.mark.parametrize(
    "tools",
    [
        None,
        b"null",
        b"{}",
        b'"x-mcp-header"',
        b"[]",
        b'["x-mcp-header", 7, null, {"x-mcp-header": 1}]',
        b'[{"inputSchema": {"x-mcp-header": 1}}]',
        b'[{"name": 7, "inputSchema": {"x-mcp-header": 1}}]',
        b'[{"name": "run", "title": "x-mcp-header"}]',
        b'[{"name": "run", "inputSchema": ["x-mcp-header"]}]',
        b'[{"name": "run", "inputSchema": "x-mcp-header"}]',
        b'[{"name": "run", "inputSchema": {"x-mcp-header": 1e999}}]',
        b'[{"name": "run", "inputSchema": {"x-mcp-header": %b}}]' % (b"[" * 100_000 + b"]" * 100_000),
        b'[{"name": "run", "inputSchema": {"x-mcp-header": ',
    ],
)
def test_what_is_no_list_of_tools_is_passed_over(tools: bytes | None) -> None:
    """Section 8 of the matrix, 4: no schema available must not block the call."""
    headers = ParamHeaders.empty()
    headers.add_page({} if tools is None else {"tools": msgspec.Raw(tools)})
    _check(headers, b'{"region": "us"}', _fields(region="eu"))


def test_a_tool_that_is_malformed_costs_no_other_tool() -> None:
    """MCP 2026-07-28, "Schema Extension": it does not prevent other tools from being used."""
    headers = ParamHeaders.empty()
    bad = _object(a={"type": "number", "x-mcp-header": "A"})
    headers.add_page(_page(_tool(_object(region=REGION), "one"), {"x-mcp-header": 1}, _tool(bad, "two")))
    headers.add_page(_page(_tool(_object(), "three"), _tool(_object(region=REGION), "four")))
    headers.add_page(_page(_tool(_object(region=REGION), "four"), _tool(_object(a=REGION), "one")))
    _refusal(headers, b'{"a": "us"}', _fields(), "one")
    _refusal(headers, b'{"region": "us"}', _fields(), "four")
    for name in ("two", "three"):
        _check(headers, b'{"region": "us", "a": 1}', _fields(), name)


# Bounds


def _nested(depth: int) -> Json:
    schema = REGION
    for _ in range(depth):
        schema = _object(a=schema)
    return schema


def test_what_is_remembered_of_one_tool_is_bounded() -> None:
    """Ours: the constants say why; beyond them the tool validates nothing."""
    many = {f"p{index}": {"type": "string", "x-mcp-header": f"H{index}"} for index in range(MAX_HEADERS - 1)}
    assert _validates(_object(region=REGION, **many))
    assert not _validates(_object(region=REGION, a={"type": "string", "x-mcp-header": "A"}, **many))
    assert _validates(_nested(MAX_DEPTH))
    assert not _validates(_nested(MAX_DEPTH + 1))
    assert _validates(_object(**{"n" * MAX_NAME_LENGTH: REGION}))
    assert not _validates(_object(**{"n" * (MAX_NAME_LENGTH + 1): REGION}))
    rest = MAX_SCHEMA_BYTES - len(json.dumps({**_object(region=REGION), "title": ""}))
    assert _validates({**_object(region=REGION), "title": "t" * rest})
    assert not _validates({**_object(region=REGION), "title": "t" * (rest + 1)})


def test_tools_that_are_remembered_are_bounded() -> None:
    """Ours: the constants say why; tools beyond them validate nothing, those known are kept up to date."""
    headers, schema = ParamHeaders.empty(), _object(region=REGION)
    longest = "n" * MAX_NAME_LENGTH
    headers.add_page(_page(_tool(schema, longest + "n"), _tool(schema, longest)))
    headers.add_page(_page(*(_tool(schema, f"t{index}") for index in range(MAX_TOOLS))))
    arguments = b'{"region": "us", "a": 1}'
    for name in (longest, "t0", f"t{MAX_TOOLS - 2}"):
        _refusal(headers, arguments, _fields(), name)
    for name in (longest + "n", f"t{MAX_TOOLS - 1}"):
        _check(headers, arguments, _fields(), name)
    headers.add_page(_page(_tool(_object(a={"type": "integer", "x-mcp-header": "A"}), "t0")))
    _check(headers, arguments, _fields(a="1"), "t0")


def test_tools_that_are_looked_at_are_bounded() -> None:
    """Ours: a page may be large; what is beyond the bound is not built."""
    headers, last = ParamHeaders.empty(), _tool(_object(region=REGION), "last")
    headers.add_page(_page(*[0] * (MAX_LISTED - 1), last, last | {"name": "beyond"}))
    _refusal(headers, b'{"region": "us"}', _fields(), "last")
    _check(headers, b'{"region": "us"}', _fields(), "beyond")


def test_a_page_that_is_too_large_is_passed_over() -> None:
    """Ours: while it is read, nothing else is served."""
    tools = json.dumps([_tool(_object(region=REGION))]).encode()
    largest = tools[:-1].ljust(MAX_PAGE_BYTES - 1) + b"]"
    headers = ParamHeaders.empty()
    headers.add_page({"tools": msgspec.Raw(largest + b" ")})
    _check(headers, b'{"region": "us"}', _fields())
    headers.add_page({"tools": msgspec.Raw(largest)})
    _refusal(headers, b'{"region": "us"}', _fields())


def test_schemas_that_are_visited_in_one_page_are_bounded() -> None:
    """Ours: while they are, nothing else is served. What was known before the bound stays known."""
    schema = _object(region=REGION)  # two of them: itself and the property
    rest = MAX_VISITED - 2
    for visited, known in ((rest, True), (rest + 1, False)):
        # The list is visited, too, and whatever is in it.
        many = {"allOf": [{}] * (visited - 2 - 1), **schema}
        headers = ParamHeaders.empty()
        headers.add_page(_page(_tool(schema, "first"), _tool(many, "many"), _tool(schema, "behind")))
        _refusal(headers, b'{"region": "us"}', _fields(), "first")
        _check(headers, b'{"region": "us"}', _fields(), "behind")
        if known:
            _refusal(headers, b'{"region": "us"}', _fields(), "many")
        else:
            _check(headers, b'{"region": "us"}', _fields(), "many")


def test_bytes_that_are_decoded_in_one_page_are_bounded() -> None:
    """Ours: while they are, nothing else is served."""
    schema = {**_object(region=REGION), "title": "t" * (MAX_SCHEMA_BYTES * 3 // 4)}
    size = len(json.dumps(_tool(schema, "00")))
    fitting = MAX_DECODED_BYTES // size
    headers = ParamHeaders.empty()
    headers.add_page(_page(*(_tool(schema, f"{index:02}") for index in range(fitting + 1))))
    _refusal(headers, b'{"region": "us"}', _fields(), f"{fitting - 1:02}")
    _check(headers, b'{"region": "us"}', _fields(), f"{fitting:02}")


def test_what_cannot_be_an_annotation_is_not_decoded() -> None:
    """Ours: many servers write all but ASCII as escapes; their tools must not use up the bound."""
    plain = _tool({"type": "object", "title": "\u4e2d" * (MAX_SCHEMA_BYTES // 6)}, "plain")
    many = [plain] * (2 + MAX_DECODED_BYTES // MAX_SCHEMA_BYTES)
    headers = ParamHeaders.empty()
    headers.add_page(_page(*many, _tool(_object(region=REGION))))
    _refusal(headers, b'{"region": "us"}', _fields())


# Any schema, any arguments

#: The arguments of a tool, as a tree; a leaf is an annotated parameter: its type and its value.
Leaf = tuple[str, str | int | bool | None]
Tree = dict[str, "Tree | Leaf"]

_LEAVES: st.SearchStrategy[Leaf] = st.one_of(
    st.tuples(st.just("string"), st.one_of(st.none(), st.text(max_size=4))),
    st.tuples(st.just("integer"), st.one_of(st.none(), st.integers())),
    st.tuples(st.just("boolean"), st.one_of(st.none(), st.booleans())),
)


def _nodes(below: st.SearchStrategy[Tree | Leaf]) -> st.SearchStrategy[Tree]:
    return st.dictionaries(st.sampled_from("abcd"), below, min_size=1, max_size=3)


def _leaves(tree: Tree | Leaf) -> int:
    return 1 if isinstance(tree, tuple) else sum(map(_leaves, tree.values()))


_TREES = _nodes(st.recursive(_LEAVES, _nodes, max_leaves=6)).filter(lambda tree: _leaves(tree) <= MAX_HEADERS)


def _schema(tree: Tree | Leaf, path: str = "") -> Json:
    if isinstance(tree, tuple):
        return {"type": tree[0], "x-mcp-header": path}
    return _object(**{name: _schema(below, path + name) for name, below in tree.items()})


def _body(tree: Tree | Leaf) -> object:
    if isinstance(tree, tuple):
        return tree[1]
    return {name: _body(below) for name, below in tree.items()}


def _params(tree: Tree | Leaf, path: str = "") -> dict[str, str | None]:
    """Return the value of every header that a client may send; None if it must omit it."""
    if isinstance(tree, dict):
        lower = [_params(below, path + name) for name, below in tree.items()]
        return {name: value for params in lower for name, value in params.items()}
    kind, value = tree
    text = str(value).lower() if kind == "boolean" else str(value)
    return {path: None if value is None else encode_value(text)}


@given(tree=_TREES, other=st.text(max_size=4).map(encode_value))
def test_a_call_passes_if_and_only_if_every_header_agrees(tree: Tree, other: str) -> None:
    """MCP 2026-07-28, "Server Behavior for Custom Headers", all four rows."""
    headers, arguments = _known(_schema(tree)), json.dumps(_body(tree)).encode()
    params = _params(tree)
    right = {name: value for name, value in params.items() if value is not None}
    _check(headers, arguments, _fields(**right))
    for name, value in params.items():
        wrong = {**right, name: other + "x"}
        if wrong[name] != value:
            assert f"Mcp-Param-{name} " in _refusal(headers, arguments, _fields(**wrong))
        if value is not None:
            del wrong[name]
            assert f"Mcp-Param-{name} header is missing" in _refusal(headers, arguments, _fields(**wrong))


@given(tools=json_values, arguments=json_values, value=st.text(max_size=4).map(encode_value))
def test_no_list_and_no_arguments_break_anything(tools: bytes, arguments: bytes, value: str) -> None:
    """Ours: the first is the child's, the second the client's, and neither is trusted."""
    headers = _known(_object(region=REGION, id=_object(id={"type": "integer", "x-mcp-header": "A"})))
    annotated = b'{"x-mcp-header":"A","properties":%b}' % tools
    for list_of_tools in (tools, b"[%b]" % annotated, b'[{"name":"x","inputSchema":%b}]' % annotated):
        headers.add_page({"tools": msgspec.Raw(list_of_tools)})
    for body in (arguments, rendered([(b'"id"', arguments)]), rendered([(b'"region"', arguments)])):
        try:
            _check(headers, body, _fields(region=value))
        except LocalProtocolError as error:
            assert error.code == HEADER_MISMATCH  # noqa: PT017 - not every body is refused
