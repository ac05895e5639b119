"""Makes the HTML of a page: a template, styles, scripts, and the data as JSON.

No text of a model becomes markup: the data stand in the page as JSON in which every ``<``, ``>`` and ``&`` is escaped,
and the scripts put them into text nodes.
"""

from __future__ import annotations

import json
from importlib import resources

from onnxprune.report.page.content import Page

SCRIPTS = (
    *("elements.js", "strip.js", "times.js", "zeros.js", "curves.js", "costs.js", "choice.js", "front.js"),
    "page.js",
)
"""The scripts, in their order."""
ESCAPED = {ord(c): f"\\u{ord(c):04x}" for c in "<>&\u2028\u2029"}
"""What HTML or an old script parser might take for something else, as JSON escapes."""


def render(page: Page) -> str:
    """The HTML of a page."""
    made = _file("page.html")
    pieces = {
        "/* styles */": _file("page.css"),
        "/* scripts */": "\n".join(_file(name) for name in SCRIPTS),
        "/* data */": json.dumps(page.to_dict(), ensure_ascii=False, allow_nan=False).translate(ESCAPED),
    }
    for mark, piece in pieces.items():
        before, found, after = made.partition(mark)
        assert found
        made = before + piece + after
    return made


def _file(name: str) -> str:
    return (resources.files(__package__) / name).read_text(encoding="utf-8")
