"""Makes the page of a record: one HTML file that needs no network.

What clients sent is data in the page, never markup: the JSON has no ``<``, so no text in it can end
the element that holds it, and the scripts only set texts.
"""

from __future__ import annotations

import html
from collections.abc import Iterable
from importlib.resources import files
from typing import Any, Final

from blkxact.qmp.json_text import encode_text
from blkxact.record.kinds import as_json
from blkxact.record.reader import Entry

SCRIPTS: Final = (
    *("model.js", "lanes.js", "timeline.js", "list.js", "disks.js"),
    *("live.js", "page.js"),
)
"""In this order."""


def page_of(entries: Iterable[Entry], title: str) -> str:
    """Return the page; ``title`` is what it is headed with. Raises what ``entries`` raises."""
    return _page(title, {"title": title, "events": events_of(entries)})


def live_page(title: str, address: str) -> str:
    """Return the page that asks for its events at ``address``, on the server that it comes from."""
    return _page(title, {"title": title, "events": [], "live": address}, "; connect-src 'self'")


def events_of(entries: Iterable[Entry]) -> list[list[Any]]:
    """Return the events as the page takes them: time, kind, text and members of each."""
    events = []
    for time, event in entries:
        members = as_json(event)
        events.append([time, members.pop("trace"), str(event), members])
    return events


def _page(title: str, record: dict[str, Any], connect: str = "") -> str:
    parts = {
        "CONNECT": connect,
        "TITLE": html.escape(title),
        "STYLE": _text("page.css"),
        "SCRIPT": "\n".join(_text(name) for name in SCRIPTS),
        "RECORD": encode_text(record).replace("<", "\\u003c"),
    }
    head, *rest = _text("page.html").split("@@")
    return head + "".join(parts[part] if odd else part for odd, part in _alternating(rest))


def _alternating(parts: list[str]) -> Iterable[tuple[bool, str]]:
    return ((number % 2 == 0, part) for number, part in enumerate(parts))


def _text(name: str) -> str:
    return files(__package__).joinpath(name).read_text(encoding="utf-8")
