"""Puts what was measured into a document that is otherwise written by hand. Pure.

A generated part stands between two comments, `<!-- bench: NAME -->` and `<!-- end of bench: NAME -->`, each
on a line of its own. All that stands outside of them stays as it is.
"""

__all__ = ["MarkerError", "replaced"]


class MarkerError(ValueError):
    """The document has not exactly one pair of markers, in their order."""


def replaced(document: str, name: str, text: str) -> str:
    """Return the document with another generated part.

    Raises:
        MarkerError: There is no place for it, or more than one.
    """
    begin, end = f"<!-- bench: {name} -->\n", f"<!-- end of bench: {name} -->\n"
    if document.count(begin) != 1 or document.count(end) != 1:
        counts = f"{document.count(begin)} and {document.count(end)}"
        raise MarkerError(f"expected one {begin.strip()} and one {end.strip()}, found {counts}")
    before, _, rest = document.partition(begin)
    if end not in rest:
        raise MarkerError(f"expected {begin.strip()} before {end.strip()}, found it behind")
    _, _, after = rest.partition(end)
    return f"{before}{begin}\n{text.strip()}\n\n{end}{after}"
