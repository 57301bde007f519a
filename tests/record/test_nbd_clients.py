"""What a record has of the clients of the NBD server: connections, and requests as counts."""

from __future__ import annotations

from blkxact.monitor.recorded import (
    NbdClientConnected,
    NbdClientGone,
    NbdExportOpened,
    NbdRequests,
)
from blkxact.record.nbd_clients import SHOWN_NAME, NbdClients
from blkxact.runtime.clock import SteppedClock
from blkxact.testing.loop import SimulatedLoop, run_simulated
from tests.nbd.simulated import Simulated

K = 1024


class Noted:
    """NBD clients whose points are passed by hand."""

    def __init__(self) -> None:
        self.events: list = []
        self.clock = SteppedClock()
        self._clients = NbdClients(self.events.append, self.clock)

    def hit(self, point: str, **facts: object) -> None:
        self._clients.notes[point](point, facts)

    def request(self, client: int, command: str, length: int) -> None:
        facts = {"export": "disk", "command": command, "offset": 0, "length": length}
        self.hit("nbd.reply", client=client, **facts)


def test_requests_of_a_while_are_one_line():
    noted = Noted()
    for command, length in (("read", K), ("read", 2 * K), ("write", 4 * K), ("flush", 0)):
        noted.request(7, command, length)
        noted.clock.advance(0.02)
    noted.request(8, "trim", K)
    assert noted.events == []
    noted.clock.advance(0.02)
    assert noted.events == [NbdRequests(7, 100_000, 2, 3 * K, 1, 4 * K, 1)]
    assert str(noted.events[0]) == (
        "NBD client 7: 2 reads of 3,072 bytes, 1 writes of 4,096 bytes, 1 other requests"
    )
    noted.clock.advance(0.1)
    assert noted.events[1:] == [NbdRequests(8, 100_000, 0, 0, 0, 0, 1)]


def test_client_that_goes_has_its_requests_before():
    noted = Noted()
    noted.request(7, "read", K)
    noted.hit("nbd.disconnected", client=7)
    noted.clock.advance(1)
    assert noted.events == [NbdRequests(7, 0, 1, K, 0, 0, 0), NbdClientGone(7)]


def test_long_name_of_an_export_is_cut():
    noted = Noted()
    noted.hit("nbd.transmission", client=1, export="x" * 4096)
    assert noted.events == [NbdExportOpened(1, "x" * SHOWN_NAME)]


def test_connection_is_recorded_from_its_beginning_to_its_end(sim_seed):
    async def main(loop: SimulatedLoop) -> None:
        world = Simulated(loop)
        await world.serve()
        events: list = []
        for point, note in NbdClients(events.append, SteppedClock()).notes.items():
            world.exports.points.listen(point, note)
        node = await world.open()
        await node.pwrite(K, b"x" * K)
        await world.close()
        assert events[:2] == [NbdClientConnected(1), NbdExportOpened(1, "disk")]
        assert events[-1] == NbdClientGone(1)
        [counted] = [event for event in events if isinstance(event, NbdRequests)]
        assert (counted.writes, counted.written_bytes) == (1, K)

    run_simulated(main, sim_seed)
