"""Listens to one emulator and writes down what happens.

What is done step by step comes as trace events; jobs' progress, bitmaps and failed requests are
looked at when the emulator passes points.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

from blkxact.monitor.observer import Observer
from blkxact.monitor.recorded import BitmapChanged, JobProgress, JobStarted, RequestFailed

from .grains import dirty_ranges, grain_of, ranges_of
from .nbd_clients import NbdClients
from .writer import shortened

if TYPE_CHECKING:
    from blkxact.bitmap import DirtyBitmap
    from blkxact.block_layer import BlockLayer
    from blkxact.qmp_server import QmpServer
    from blkxact.runtime.trace import Trace, TraceEvent

    from .kinds import Event
    from .writer import RecordWriter

_log = logging.getLogger(__name__)

PROGRESS_US: Final = 100_000
"""Least time between two lines of one job's progress."""
_CHANGE_NO_BITMAP: Final = ("query-", "qom-", "job-", "human-monitor-command")
"""How commands begin after which bitmaps are not looked at."""


class Recorder:
    """A ``Trace`` of one emulator, and a listener at its points."""

    def __init__(self, writer: RecordWriter, program: str) -> None:
        self._writer = writer
        self._program = program
        self._layer: BlockLayer
        self._began = 0
        self._targets: dict[str, _Work] = {}
        """By the address of the node that is written to."""
        self._jobs: dict[str, _Work] = {}
        self._bitmaps: dict[tuple[str, str], tuple[str, int]] = {}
        """State and dirty bytes, as last recorded."""

    def with_trace(self, trace: Trace | None) -> Trace:
        """Return a ``Trace`` that gives events to this and to ``trace``."""
        if trace is None:
            return self

        def both(event: TraceEvent) -> None:
            self(event)
            trace(event)

        return both

    def attach(self, layer: BlockLayer, server: QmpServer) -> None:
        """Record what ``layer`` and the clients of ``server`` do from now on."""
        self._layer = layer
        server.observer = Observer(self, shortened)
        self._began = layer.clock.realtime_us()
        self._writer.begin(self._began, self._program)
        listen = self._listen
        listen("job.start", self._job_starts)
        listen("job.step", self._job_steps)
        listen("job.ran", self._job_steps)
        listen("job.conclude", self._job_ends)
        listen("request.write", self._written)
        listen("request.write-zeroes", self._written)
        listen("bitmap.freeze", self._bitmap_passes)
        listen("bitmap.abdicated", self._bitmap_passes)
        listen("bitmap.reclaimed", self._bitmap_passes)
        listen("command.executed", self._command_executed)
        listen("backend.failed", self._request_failed)
        for point, note in NbdClients(self, layer.clock).notes.items():
            listen(point, note)

    def _listen(self, point: str, note: Callable[[str, Mapping[str, Any]], None]) -> None:
        """Call ``note`` at a point. A bug in it ends the record, and nothing else."""

        def guarded(name: str, facts: Mapping[str, Any]) -> None:
            try:
                note(name, facts)
            except Exception:  # noqa: BLE001 - a bug in a record must not fail a job
                _log.exception("the record ends here: internal error at %s", name)
                self._writer.close()

        self._layer.points.listen(point, guarded)

    def __call__(self, event: Event) -> None:
        """Write an event down."""
        try:
            self._writer.write(event, self._now())
        except (ValueError, RecursionError) as error:
            _log.warning("an event cannot be recorded: %s", error)

    def close(self) -> None:
        """Close the file."""
        self._writer.close()

    def _now(self) -> int:
        return self._layer.clock.realtime_us() - self._began

    # Jobs

    def _job_starts(self, _point: str, facts: Mapping[str, Any]) -> None:
        job = self._layer.jobs.get(facts["job"])
        if job is None or job.id is None:
            return
        nodes = list(job.nodes())
        source = nodes[0].address if nodes else None
        target = nodes[1].address if len(nodes) > 1 else None
        work = _Work(nodes[0].length if nodes else 0)
        self._jobs[job.id] = work
        if target is not None:
            self._targets[target] = work
        self(JobStarted(job.id, job.type_name, source, target, work.size, work.grain))

    def _job_steps(self, _point: str, facts: Mapping[str, Any]) -> None:
        work = self._jobs.get(facts["job"])
        if work is not None and self._now() - work.shown >= PROGRESS_US:
            self._show(facts["job"], work)

    def _job_ends(self, _point: str, facts: Mapping[str, Any]) -> None:
        work = self._jobs.pop(facts["job"], None)
        if work is not None:
            self._show(facts["job"], work)
            self._targets = {at: one for at, one in self._targets.items() if one is not work}

    def _show(self, job_id: str, work: _Work) -> None:
        job = self._layer.jobs[job_id]
        work.shown = self._now()
        progress = job.current_progress, job.total_progress
        if work.grains or progress != work.progress:
            work.progress = progress
            ranges = ranges_of(work.grains, work.grain, work.size)
            work.grains.clear()
            self(JobProgress(job_id, *progress, ranges))

    def _written(self, _point: str, facts: Mapping[str, Any]) -> None:
        work = self._targets.get(facts["node"])
        if work is not None:
            work.note(facts["offset"], facts["length"])

    # Bitmaps

    def _bitmap_passes(self, point: str, facts: Mapping[str, Any]) -> None:
        state = point.removeprefix("bitmap.").replace("freeze", "frozen")
        bitmap = self._find(facts["node"], facts["bitmap"])
        if bitmap is not None:
            self._bitmap_is(facts["node"], bitmap, state)

    def _command_executed(self, _point: str, facts: Mapping[str, Any]) -> None:
        if not facts["command"].startswith(_CHANGE_NO_BITMAP):
            self.look_at_bitmaps()

    def look_at_bitmaps(self) -> None:
        """Record the bitmaps whose state has changed."""
        gone = set(self._bitmaps)
        for node in self._layer.graph.nodes.values() if self._layer.has("graph") else ():
            for bitmap in node.bitmaps.values():
                if bitmap.name is not None:
                    gone.discard((node.node_name, bitmap.name))
                    self._bitmap_is(node.node_name, bitmap, _state_of(bitmap))
        for node_name, name in sorted(gone):
            del self._bitmaps[node_name, name]
            self(BitmapChanged(node_name, name, "removed", 0, 0, 0, []))

    def _find(self, node_name: str, name: str) -> DirtyBitmap | None:
        node = self._layer.graph.nodes.get(node_name)
        return None if node is None else node.bitmaps.get(name)

    def _bitmap_is(self, node: str, bitmap: DirtyBitmap, state: str) -> None:
        assert bitmap.name is not None
        now = state, bitmap.count()
        if self._bitmaps.get((node, bitmap.name)) == now:
            return
        self._bitmaps[node, bitmap.name] = now
        grain = max(grain_of(bitmap.size), bitmap.granularity)
        ranges = dirty_ranges(bitmap, grain)
        self(BitmapChanged(node, bitmap.name, state, now[1], bitmap.size, grain, ranges))

    def _request_failed(self, _point: str, facts: Mapping[str, Any]) -> None:
        self(RequestFailed(**facts))


class _Work:
    """What a job has written to its target since its progress was recorded."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.grain = grain_of(size)
        self.grains: set[int] = set()
        self.progress = (0, 0)
        self.shown = 0

    def note(self, offset: int, length: int) -> None:
        if length > 0:
            self.grains.update(range(offset // self.grain, (offset + length - 1) // self.grain + 1))


def _state_of(bitmap: DirtyBitmap) -> str:
    if bitmap.inconsistent:
        return "inconsistent"
    if bitmap.frozen:
        return "frozen"
    return "recording" if bitmap.recording else "disabled"
