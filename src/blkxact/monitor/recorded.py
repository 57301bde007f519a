"""Events that a record holds besides those of ``runtime.trace``: clients, jobs, bitmaps, faults.

Offsets and lengths are in bytes; ``ranges`` are pairs of them, whole grains of ``grain`` bytes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from blkxact.qmp.json_text import encode_text

SHOWN: Final = 200
"""Characters of a command's arguments in the text of the event."""

Ranges = list[list[int]]


@dataclass(frozen=True, slots=True)
class RecordBegan:
    """An emulator starts. ``began`` is its wall-clock time in microseconds since 1970."""

    record: int
    """Version of the format."""
    began: int
    program: str

    def __str__(self) -> str:
        return f"{self.program} starts"


@dataclass(frozen=True, slots=True)
class RecordFull:
    """The limit is reached: nothing more is recorded."""

    limit: int

    def __str__(self) -> str:
        return f"the record is full: its limit is {self.limit} bytes"


@dataclass(frozen=True, slots=True)
class ClientConnected:
    """A client of a monitor; clients are numbered from 1."""

    client: int
    address: str

    def __str__(self) -> str:
        return f"client {self.client} connected to {self.address}"


@dataclass(frozen=True, slots=True)
class ClientGone:
    """The connection is closed."""

    client: int

    def __str__(self) -> str:
        return f"client {self.client} gone"


@dataclass(frozen=True, slots=True)
class CommandReceived:
    """A client has sent a command; commands are numbered from 1."""

    client: int
    number: int
    command: str
    arguments: Any = None

    def __str__(self) -> str:
        text = "" if not self.arguments else f" {encode_text(self.arguments)}"
        if len(text) > SHOWN:
            text = f"{text[:SHOWN]} ..."
        return f"client {self.client}: {self.command}{text}"


@dataclass(frozen=True, slots=True)
class CommandAnswered:
    """The reply to a command; ``error`` is the description of a refusal."""

    client: int
    number: int
    command: str
    result: Any = None
    error: str | None = None

    def __str__(self) -> str:
        how = "done" if self.error is None else f"refused: {self.error}"
        return f"client {self.client}: {self.command} {how}"


@dataclass(frozen=True, slots=True)
class EventEmitted:
    """An event, and the clients that it is sent to."""

    event: str
    data: Any
    clients: list[int]

    def __str__(self) -> str:
        data = self.data if isinstance(self.data, dict) else {}
        words = [data.get(name) for name in ("id", "device", "operation", "status", "error")]
        return " ".join([self.event, *(str(word) for word in words if word is not None)])


@dataclass(frozen=True, slots=True)
class JobStarted:
    """A job begins to work; it copies from ``source`` to ``target``, as far as it does."""

    job: str
    type: str
    source: str | None
    target: str | None
    size: int
    grain: int

    def __str__(self) -> str:
        where = "" if self.source is None else f", {self.source}"
        return f"job {self.job}: {self.type} starts{where}" + (
            "" if self.target is None else f" to {self.target}"
        )


@dataclass(frozen=True, slots=True)
class JobProgress:
    """How far a job is, and what was written to its target since the last time."""

    job: str
    current: int
    total: int
    ranges: Ranges

    def __str__(self) -> str:
        share = f"{100 * self.current // self.total} %" if self.total else "nothing to do"
        return f"job {self.job}: {share}"


@dataclass(frozen=True, slots=True)
class BitmapChanged:
    """A bitmap and what is dirty in it.

    ``state`` is recording, disabled, frozen, abdicated, reclaimed, inconsistent or removed.
    """

    node: str
    bitmap: str
    state: str
    count: int
    """Dirty bytes."""
    size: int
    grain: int
    ranges: Ranges

    def __str__(self) -> str:
        return f"bitmap {self.node}/{self.bitmap} {self.state}, {self.count:,} bytes dirty"


@dataclass(frozen=True, slots=True)
class RequestFailed:
    """A request of the guest, of an export or of a job's own backend failed."""

    node: str
    request: str
    offset: int
    length: int
    error: str

    def __str__(self) -> str:
        return f"{self.node}: {self.request} of {self.length} at {self.offset}: {self.error}"


@dataclass(frozen=True, slots=True)
class NbdClientConnected:
    """A client of the NBD server; clients are numbered from 1."""

    client: int

    def __str__(self) -> str:
        return f"NBD client {self.client} connected"


@dataclass(frozen=True, slots=True)
class NbdExportOpened:
    """The handshake is over: the client works with an export."""

    client: int
    export: str

    def __str__(self) -> str:
        return f"NBD client {self.client} opens export {self.export}"


@dataclass(frozen=True, slots=True)
class NbdRequests:
    """The requests of a client that were answered in the last ``period`` microseconds."""

    client: int
    period: int
    reads: int
    read_bytes: int
    writes: int
    written_bytes: int
    others: int

    def __str__(self) -> str:
        counts = [
            f"{self.reads} reads of {self.read_bytes:,} bytes" if self.reads else "",
            f"{self.writes} writes of {self.written_bytes:,} bytes" if self.writes else "",
            f"{self.others} other requests" if self.others else "",
        ]
        return f"NBD client {self.client}: {', '.join(filter(None, counts))}"


@dataclass(frozen=True, slots=True)
class NbdClientGone:
    """The connection is closed."""

    client: int

    def __str__(self) -> str:
        return f"NBD client {self.client} gone"


@dataclass(frozen=True, slots=True)
class FaultStruck:
    """A fault was injected; ``fault`` says which, as ``blkxact prove`` writes it."""

    fault: str

    def __str__(self) -> str:
        return f"fault: {self.fault}"


@dataclass(frozen=True, slots=True)
class RestoreDiffers:
    """What was restored of a disk is not what it held; written by ``blkxact prove``."""

    node: str
    text: str
    size: int
    ranges: Ranges

    def __str__(self) -> str:
        return f"{self.node}: the restored disk differs: {self.text}"


RecordedEvent = (
    RecordBegan
    | RecordFull
    | ClientConnected
    | ClientGone
    | CommandReceived
    | CommandAnswered
    | EventEmitted
    | JobStarted
    | JobProgress
    | BitmapChanged
    | RequestFailed
    | NbdClientConnected
    | NbdExportOpened
    | NbdRequests
    | NbdClientGone
    | FaultStruck
    | RestoreDiffers
)
