"""Serves the page of a record that grows, on loopback: what ``blkxact watch --web`` does.

The page asks for what is new with the position up to which it has read, and the answer waits until
there is something. So the server holds nothing between two questions, whatever the record's size.

Invariants:

* Nothing is served but the page and the events, and only to who knows the address: it has a secret,
  as other users of the machine can connect to loopback too.
* At most ``MAX_CLIENTS`` are served at a time; others are turned away.
"""

from __future__ import annotations

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final

from blkxact.qmp.json_text import encode_text
from blkxact.record.reader import Position, RecordError, read_piece

from .page import event_of, live_page

LOOPBACK: Final = "127.0.0.1"
MAX_CLIENTS: Final = 16
CLIENT_TIMEOUT_S: Final = 10.0
"""Seconds that a client may take to send its request."""
POLL_S: Final = 0.1
"""Seconds between two looks at the record while a question waits."""
MAX_POLLS: Final = 100
"""Looks after which a question is answered with no event."""
GRACE_S: Final = 3.0
"""Seconds in which pages learn that the daemon has ended."""


class LiveServer(ThreadingHTTPServer):
    """The server of one record, in threads of its own. Raises ``OSError``."""

    def __init__(self, record: Path, secret: str) -> None:
        self.record = record
        self.root = f"/{secret}/"
        self.over = threading.Event()
        """The daemon has ended: the record grows no more."""
        self._clients = 0
        self._asked = self._told = False
        """Whether a page has asked for events, and whether one knows that there are no more."""
        self._changed = threading.Condition()
        super().__init__((LOOPBACK, 0), _Handler)
        self._thread = threading.Thread(target=self.serve_forever, args=(POLL_S,), daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        """The address of the page."""
        return f"http://{LOOPBACK}:{self.server_port}{self.root}"

    def finish(self) -> None:
        """Let the pages learn that the daemon has ended; returns when they know."""
        self.over.set()
        with self._changed:
            self._changed.wait_for(self._is_known, GRACE_S)

    def _is_known(self) -> bool:
        return self._clients == 0 and self._told >= self._asked

    def close(self) -> None:
        """Stop serving."""
        self.over.set()
        self.shutdown()
        self._thread.join()
        self.server_close()

    def process_request(self, request: Any, client_address: Any) -> None:
        """Serve a client in a thread, unless there are too many."""
        with self._changed:
            is_full = self._clients >= MAX_CLIENTS
            self._clients += not is_full
        if is_full:
            self.shutdown_request(request)
        else:
            super().process_request(request, client_address)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Serve a client (in its thread)."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            with self._changed:
                self._clients -= 1
                self._changed.notify_all()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of a client that has gone."""

    def news(self, position: Position) -> dict[str, Any]:
        """Return what is new since ``position``, once there is something, or the daemon has ended.

        After ``MAX_POLLS`` looks there may be nothing new.
        """
        self._asked = True
        for _ in range(MAX_POLLS):
            is_over = self.over.is_set()  # asked first: what is read then is all
            try:
                entries, after = read_piece(self.record, position)
            except RecordError as error:
                return {"error": str(error)}
            if entries or is_over:
                break
            self.over.wait(POLL_S)
        is_all = is_over and not entries
        self._told |= is_all
        return {"events": list(map(event_of, entries)), "next": str(after), "over": is_all}


class _Handler(BaseHTTPRequestHandler):
    """One request."""

    server: LiveServer
    timeout = CLIENT_TIMEOUT_S
    server_version = "blkxact"
    sys_version = ""

    def do_GET(self) -> None:
        """Answer it."""
        root, (path, _, query) = self.server.root, self.path.partition("?")
        if path == root:
            page = live_page(self.server.record.name, "events")
            self._send(200, "text/html; charset=utf-8", page)
        elif path == f"{root}events":
            try:
                position = Position.parse(query)
            except ValueError:
                self._send(400, "text/plain", "there is no such position\n")
                return
            self._send(200, "application/json", encode_text(self.server.news(position)))
        else:
            self._send(404, "text/plain", "there is no such page\n")

    def _send(self, status: int, kind: str, text: str) -> None:
        body = text.encode(errors="replace")
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.send_header("Referrer-Policy", "no-referrer")
        self.send_header("X-Content-Type-Options", "nosniff")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - its name there
        """Log nothing."""
