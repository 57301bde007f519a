"""Makes the page of a record: one HTML file that needs no network.

What clients sent is data in the page, never markup: the JSON has no ``<``, so no text in it can end
the element that holds it, and the scripts only set texts.
"""

from __future__ import annotations

import html
from collections.abc import Iterable
from importlib.resources import files
from typing import Final

from blkxact.qmp.json_text import encode_text
from blkxact.record.kinds import as_json
from blkxact.record.reader import Entry

SCRIPTS: Final = ("model.js", "lanes.js", "timeline.js", "list.js", "disks.js", "page.js")
"""In this order."""


def page_of(entries: Iterable[Entry], title: str) -> str:
    """Return the page; ``title`` is what it is headed with. Raises what ``entries`` raises."""
    events = []
    for time, event in entries:
        members = as_json(event)
        events.append([time, members.pop("trace"), str(event), members])
    data = encode_text({"title": title, "events": events})
    parts = {
        "TITLE": html.escape(title),
        "STYLE": _text("page.css"),
        "SCRIPT": "\n".join(_text(name) for name in SCRIPTS),
        "RECORD": data.replace("<", "\\u003c"),
    }
    head, *rest = _text("page.html").split("@@")
    return head + "".join(parts[part] if odd else part for odd, part in _alternating(rest))


def _alternating(parts: list[str]) -> Iterable[tuple[bool, str]]:
    return ((number % 2 == 0, part) for number, part in enumerate(parts))


def _text(name: str) -> str:
    return files(__package__).joinpath(name).read_text(encoding="utf-8")
