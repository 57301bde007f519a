"""Makes the page of a record: one HTML file that needs no network.

What clients sent is data in the page, never markup: the JSON has no ``<``, so no text in it can end
the element that holds it, and the scripts only set texts.
"""

from __future__ import annotations

import html
from collections.abc import Iterable, Iterator
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
_LESS: Final = "\\u003c"
"""What JSON may write for ``<``."""


def page_of(entries: Iterable[Entry], title: str) -> str:
    """Return the page; ``title`` is what it is headed with. Raises what ``entries`` raises."""
    return "".join(pieces_of_page(entries, title))


def pieces_of_page(entries: Iterable[Entry], title: str) -> Iterator[str]:
    """Yield the page piece by piece, however long the record is."""
    return _page({"title": title}, entries)


def live_page(title: str, address: str) -> str:
    """Return the page that asks for its events at ``address``, on the server that it comes from."""
    return "".join(_page({"title": title, "live": address}, (), "; connect-src 'self'"))


def event_of(entry: Entry) -> list[Any]:
    """Return an event as the page takes it: time, kind, text and members."""
    time, event = entry
    members = as_json(event)
    return [time, members.pop("trace"), str(event), members]


def _page(record: dict[str, Any], entries: Iterable[Entry], connect: str = "") -> Iterator[str]:
    parts = {
        "CONNECT": connect,
        "TITLE": html.escape(record["title"]),
        "STYLE": _text("page.css"),
        "SCRIPT": "\n".join(_text(name) for name in SCRIPTS),
    }
    head, *rest = _text("page.html").split("@@")
    yield head
    for odd, part in _alternating(rest):
        if odd and part == "RECORD":
            yield from _json(record, entries)
        else:
            yield parts[part] if odd else part


def _json(record: dict[str, Any], entries: Iterable[Entry]) -> Iterator[str]:
    """Yield the JSON of what the scripts get."""
    yield encode_text(record).removesuffix("}").replace("<", _LESS) + ', "events": ['
    comma = ""
    for entry in entries:
        yield comma + encode_text(event_of(entry)).replace("<", _LESS)
        comma = ",\n"
    yield "]}"


def _alternating(parts: list[str]) -> Iterable[tuple[bool, str]]:
    return ((number % 2 == 0, part) for number, part in enumerate(parts))


def _text(name: str) -> str:
    return files(__package__).joinpath(name).read_text(encoding="utf-8")
