"""JSON as people write it: with comments, and commas before a closing bracket. Pure.

Source: the files of MCP clients; Visual Studio Code calls the format "JSON with Comments".
"""

import json
import re

__all__ = ["parse_jsonc"]

# Strings come first, so that what looks like a comment within one is none.
_TOKEN = re.compile(
    r"""
    (?P<string> "(?:[^"\\]|\\.)*" )
  | (?P<comment> //[^\n]* | /\*(?:[^*]|\*(?!/))*\*/ )
  | (?P<comma> , (?= (?: \s | //[^\n]*(?:\n|\Z) | /\*(?:[^*]|\*(?!/))*\*/ )* [\]}] ) )
    """,
    re.DOTALL | re.VERBOSE,
)


def parse_jsonc(text: str) -> object:
    """Return what a text means.

    Raises:
        ValueError: It is no JSON, even so; the message says where.
    """
    try:
        parsed: object = json.loads(_TOKEN.sub(_blank, text.removeprefix("\ufeff")))
    except json.JSONDecodeError as exc:
        raise ValueError(f"line {exc.lineno}: {exc.msg} (column {exc.colno})") from None
    except RecursionError:
        raise ValueError("lists or objects are nested too deeply") from None
    return parsed


def _blank(match: re.Match[str]) -> str:
    """Return what stands for a token, as long as it is: errors keep their line and column."""
    if match.lastgroup == "string":
        return match[0]
    return re.sub(r"[^\n]", " ", match[0])
