"""The points of the NBD server's connections, and of connections to servers."""

from __future__ import annotations

import errno

import pytest

from blkxact.errors import QmpError
from blkxact.testing.faults import Fault, Faults, Record
from blkxact.testing.loop import SimulatedLoop, run_simulated

from .simulated import Simulated

K = 1024


def test_connection_and_requests_pass_their_points(sim_seed: int) -> None:
    async def main(loop: SimulatedLoop) -> None:
        world = Simulated(loop)
        await world.serve()
        record = Record(world.exports.points, "nbd.*")
        node = await world.open()
        await node.pwrite(K, b"x" * K)
        await world.close()
        passed = [each.address for each in record.passings]
        assert passed[0] == "nbd.connected"
        assert passed.index("nbd.handshake") < passed.index("nbd.transmission disk")
        write = ["nbd.request disk write", "nbd.reply disk write"]
        assert [each for each in passed if each.endswith("write")] == write
        assert passed[-1] == "nbd.disconnected"

    run_simulated(main, sim_seed)


def test_request_fails_where_a_fault_is_ordered(sim_seed: int) -> None:
    async def main(loop: SimulatedLoop) -> None:
        world = Simulated(loop)
        await world.serve()
        node = await world.open()
        Faults(world.exports.points).add(Fault("nbd.request", errno.ENOSPC, {"command": "write"}))
        with pytest.raises(OSError, match="No space left"):
            await node.pwrite(0, b"x" * K)
        assert not any(await world.content())
        await node.pwrite(0, b"x" * K)
        assert (await world.content())[:K] == b"x" * K
        await world.close()

    run_simulated(main, sim_seed)


@pytest.mark.parametrize(("point", "written"), [("nbd.request", 0), ("nbd.reply", K)])
def test_connection_is_cut_before_or_after_the_request(
    sim_seed: int, point: str, written: int
) -> None:
    async def main(loop: SimulatedLoop) -> None:
        world = Simulated(loop)
        await world.serve()
        node = await world.open()
        fault = Fault(point, errno.ECONNRESET, {"command": "write"})
        Faults(world.exports.points).add(fault)
        with pytest.raises(OSError, match="Input/output error"):
            await node.pwrite(0, b"x" * K)
        assert (await world.content()).count(b"x") == written
        await world.close()

    run_simulated(main, sim_seed)


@pytest.mark.parametrize("point", ["nbd.connected", "nbd.handshake"])
def test_connection_is_cut_in_its_handshake(sim_seed: int, point: str) -> None:
    async def main(loop: SimulatedLoop) -> None:
        world = Simulated(loop)
        await world.serve()
        Faults(world.exports.points).add(Fault(point, errno.ECONNRESET))
        with pytest.raises(QmpError):
            await world.open()
        await world.open()
        await world.close()

    run_simulated(main, sim_seed)


def test_connection_to_a_server_fails_where_a_fault_is_ordered(sim_seed: int) -> None:
    async def main(loop: SimulatedLoop) -> None:
        world = Simulated(loop)
        await world.serve()
        Faults(world.graph.points).add(Fault("server.connect", "no route", {"node": "n"}))
        with pytest.raises(QmpError, match="no route"):
            await world.open("n")
        await world.open("n")
        await world.close()

    run_simulated(main, sim_seed)
