"""The client driver on the simulated loop: a server that is slow, cuts, dies and comes back."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Awaitable, Callable

import pytest

from blkxact.block.types import Status, WriteFlags
from blkxact.drivers.nbd.client import CONNECT_TIMEOUT_S, FIRST_PAUSE_S, MAX_REQUESTS
from blkxact.errors import QmpError
from blkxact.nbd.protocol import MAX_PAYLOAD, REQUEST_MAGIC, Command, CommandFlag, Mode
from blkxact.nbd.replies import Replies
from blkxact.nbd.request_stream import Request
from blkxact.storage.api import FileRange
from blkxact.storage.errors import CopyError
from blkxact.testing.faults import Fault
from blkxact.testing.loop import SimulatedLoop, run_simulated

from .server_words import WHOLE
from .simulated import PATH, Simulated, failing_with

K = 1024
MIB = 1 << 20

Test = Callable[[Simulated], Awaitable[None]]


def simulate(test: Test, seed: int, **how) -> None:
    """Run a test with a server that serves."""

    async def main(loop: SimulatedLoop) -> None:
        world = Simulated(loop, **how)
        await world.serve()
        await test(world)
        await world.close()

    run_simulated(main, seed)


def test_what_is_written_is_read_and_is_in_the_servers_file(sim_seed) -> None:
    async def test(world: Simulated) -> None:
        node = await world.open()
        assert node.length == MIB
        await node.pwrite(1000, b"abc" * 1000)
        await node.pwrite_zeroes(2000, 500, WriteFlags.MAY_UNMAP)
        await node.pdiscard(512 * K, 64 * K)
        await node.flush()
        expected = bytearray(MIB)
        expected[1000:4000] = b"abc" * 1000
        expected[2000:2500] = bytes(500)
        assert await node.pread(0, MIB) == expected
        assert await world.content() == expected
        extents = await node.block_status(0, MIB)
        assert sum(extent.length for extent in extents) == MIB
        assert extents[-1].status == Status.ZERO | Status.ALLOCATED

    simulate(test, sim_seed)


def test_requests_in_flight_together_are_as_many_as_in_qemu(sim_seed) -> None:
    async def test(world: Simulated) -> None:
        node = await world.open()
        channel = node.driver._client._channel  # the one connection
        world.storage.latency = 1.0
        most = 0

        async def read(at: int) -> None:
            nonlocal most
            data = await node.pread(at * 4 * K, 4 * K)
            assert data == bytes(4 * K)

        async def watch() -> None:
            nonlocal most
            while True:
                most = max(most, len(channel._waiting))
                await asyncio.sleep(0.05)

        watcher = asyncio.create_task(watch())
        await asyncio.gather(*(read(at) for at in range(3 * MAX_REQUESTS)))
        watcher.cancel()
        assert most == MAX_REQUESTS
        world.storage.latency = None

    simulate(test, sim_seed)


def test_request_larger_than_the_limit_is_sent_in_pieces(sim_seed) -> None:
    async def test(world: Simulated) -> None:
        node = await world.open()
        payload = world.random.randbytes(4 * K) * ((MAX_PAYLOAD + 64 * K) // (4 * K))
        await node.pwrite(0, payload)
        assert await node.pread(0, len(payload)) == payload
        await node.pwrite_zeroes(0, len(payload))
        assert not any(await node.pread(0, len(payload)))

    simulate(test, sim_seed, size=MAX_PAYLOAD + MIB)


def test_random_requests_over_a_network_that_breaks_do_what_a_disk_does(sim_seed) -> None:
    """With a delay every request ends well: those that were cut are made again."""

    async def test(world: Simulated) -> None:
        node = await world.open(reconnect_delay=1000)
        disk = bytearray(MIB)
        breaking = True

        async def break_often() -> None:
            while breaking:
                await asyncio.sleep(world.random.random() * 0.01)
                world.network.break_all()
                await asyncio.sleep(FIRST_PAUSE_S)

        breaker = asyncio.create_task(break_often())

        async def work(area: int) -> None:
            for _ in range(20):
                at = area * 128 * K + world.random.randrange(64 * K)
                size = world.random.randrange(1, 64 * K)
                match world.random.randrange(4):
                    case 0:
                        data = world.random.randbytes(size)
                        await node.pwrite(at, data)
                        disk[at : at + size] = data
                    case 1:
                        await node.pwrite_zeroes(at, size)
                        disk[at : at + size] = bytes(size)
                    case 2:
                        assert await node.pread(at, size) == disk[at : at + size]
                    case _:
                        await node.block_status(at, size)

        await asyncio.gather(*(work(area) for area in range(8)))
        breaking = False
        await breaker
        await node.flush()
        assert await node.pread(0, MIB) == disk
        assert await world.content() == disk
        assert world.network.connections > 1

    simulate(test, sim_seed)


def test_server_that_is_gone_fails_requests_with_eio_until_it_is_back(sim_seed) -> None:
    async def test(world: Simulated) -> None:
        node = await world.open()
        world.kill()
        await failing_with(errno.EIO, node.pread(0, K))
        await failing_with(errno.EIO, node.pwrite(0, b"x"))
        world.start()
        await asyncio.sleep(2 * FIRST_PAUSE_S)
        await node.pwrite(0, b"x")
        assert await node.pread(0, 1) == b"x"

    simulate(test, sim_seed)


def test_requests_wait_for_the_server_as_long_as_the_delay_says(sim_seed) -> None:
    async def test(world: Simulated) -> None:
        node = await world.open(reconnect_delay=10)
        world.kill()
        began = world.clock.monotonic()
        requests = [asyncio.create_task(node.pread(at * K, K)) for at in range(MAX_REQUESTS + 4)]
        await asyncio.wait(requests)
        assert 10 <= world.clock.monotonic() - began < 11
        assert all(isinstance(request.exception(), OSError) for request in requests)
        await failing_with(errno.EIO, node.pread(0, K))
        assert world.clock.monotonic() - began < 11

    simulate(test, sim_seed)


def test_server_that_is_back_in_time_gets_the_requests_that_waited(sim_seed) -> None:
    async def test(world: Simulated) -> None:
        node = await world.open(reconnect_delay=10)
        world.kill()
        writes = [asyncio.create_task(node.pwrite(at * K, b"x" * K)) for at in range(40)]
        await asyncio.sleep(2)
        world.start()
        await asyncio.gather(*writes)
        await node.flush()
        assert (await world.content())[: 40 * K] == b"x" * 40 * K

    simulate(test, sim_seed)


def test_cancelled_job_ends_the_waiting_for_the_server(sim_seed) -> None:
    async def test(world: Simulated) -> None:
        node = await world.open(reconnect_delay=1000)
        world.kill()
        began = world.clock.monotonic()
        write = asyncio.create_task(node.pwrite(0, b"x"))
        await asyncio.sleep(1)
        assert not write.done()
        node.driver.cancel_in_flight()
        await failing_with(errno.EIO, write)
        assert world.clock.monotonic() - began < 2

    simulate(test, sim_seed)


def test_node_that_is_closed_lets_nobody_wait(sim_seed) -> None:
    async def test(world: Simulated) -> None:
        driver = (await world.open(reconnect_delay=1000)).driver
        world.kill()
        read = asyncio.create_task(driver.pread(0, K))
        await asyncio.sleep(1)
        await driver.close()
        await failing_with(errno.EIO, read)
        await failing_with(errno.EIO, driver.pread(0, K))

    simulate(test, sim_seed)


def test_node_is_deleted_at_once_though_its_server_is_gone_with_unflushed_writes(sim_seed) -> None:
    async def test(world: Simulated) -> None:
        node = await world.open(reconnect_delay=1000)
        await node.pwrite(0, b"x")
        world.kill()
        await asyncio.sleep(1)
        began = world.clock.monotonic()
        await world.blockdev.delete("n")
        assert world.clock.monotonic() - began < 1

    simulate(test, sim_seed)


def test_range_of_a_file_is_sent_as_it_is_and_its_errors_are_the_sources(sim_seed) -> None:
    async def test(world: Simulated) -> None:
        node = await world.open()
        data = world.random.randbytes(700 * K)
        source = await world.storage.create("/source")
        await source.pwrite(0, data)
        await node.pwrite(100, FileRange(source, 50, 600 * K))
        assert (await world.content())[100 : 100 + 600 * K] == data[50 : 50 + 600 * K]
        world.storage.faults.add(Fault("storage.pread", errno.EIO, {"path": "/source"}))
        with pytest.raises(CopyError) as caught:
            await node.pwrite(0, FileRange(source, 0, K))
        assert caught.value.reading
        await source.close()

    simulate(test, sim_seed)


def test_flush_after_writes_were_lost_with_the_server_fails_for_good(sim_seed) -> None:
    async def test(world: Simulated) -> None:
        node = await world.open()
        await node.pwrite(0, b"x")
        world.kill()
        world.start()
        await failing_with(errno.EIO, node.pread(0, K))
        await asyncio.sleep(2 * FIRST_PAUSE_S)
        await node.pread(0, K)
        for _ in range(2):
            await failing_with(errno.EIO, node.flush())

    simulate(test, sim_seed)


def test_flush_succeeds_where_no_write_could_be_lost(sim_seed) -> None:
    async def test(world: Simulated) -> None:
        node = await world.open()
        await node.pwrite(0, b"x")
        await node.flush()
        await node.pwrite(1, b"y", WriteFlags.FUA)
        world.kill()
        world.start()
        await failing_with(errno.EIO, node.pwrite(2, b"z"))
        await asyncio.sleep(2 * FIRST_PAUSE_S)
        await node.pwrite(2, b"z")
        await node.flush()
        assert (await world.content())[:3] == b"xyz"

    simulate(test, sim_seed)


def test_flush_that_the_server_dies_in_keeps_the_writes_for_lost(sim_seed) -> None:
    async def test(world: Simulated) -> None:
        node = await world.open()
        await node.pwrite(0, b"x")
        world.storage.latency = 100.0
        flush = asyncio.create_task(node.flush())
        await asyncio.sleep(0.01)
        world.kill()
        world.storage.latency = None
        world.start()
        await failing_with(errno.EIO, flush)
        await asyncio.sleep(2 * FIRST_PAUSE_S)
        await node.pread(0, K)
        await failing_with(errno.EIO, node.flush())

    simulate(test, sim_seed)


def test_whoever_sets_a_delay_vouches_for_the_writes(sim_seed) -> None:
    async def test(world: Simulated) -> None:
        node = await world.open(reconnect_delay=10)
        await node.pwrite(0, b"x")
        world.kill()
        world.start()
        await node.flush()

    simulate(test, sim_seed)


def test_export_that_is_another_after_a_loss_is_not_used(sim_seed) -> None:
    async def test(world: Simulated) -> None:
        node = await world.open(reconnect_delay=10)
        for export in world.exports.offers():
            export.size += 512
        world.network.break_all()
        await failing_with(errno.EIO, node.pread(0, K))
        await failing_with(errno.EIO, node.pread(0, K))

    simulate(test, sim_seed)


def test_writable_export_that_comes_back_read_only_is_not_used(sim_seed) -> None:
    async def test(world: Simulated) -> None:
        node = await world.open(reconnect_delay=10)
        for export in world.exports.offers():
            export.flags |= 2
        world.network.break_all()
        await failing_with(errno.EIO, node.pwrite(0, b"x"))
        assert not any(await world.content())

    simulate(test, sim_seed)


def test_open_waits_for_the_server_as_long_as_the_timeout_says(sim_seed) -> None:
    async def test(world: Simulated) -> None:
        world.kill()
        began = world.clock.monotonic()
        with pytest.raises(QmpError, match="Failed to connect to '/server'"):
            await world.open(open_timeout=10)
        assert 10 <= world.clock.monotonic() - began < 11
        opening = asyncio.create_task(world.open(open_timeout=10))
        await asyncio.sleep(2)
        world.start()
        node = await opening
        assert await node.pread(0, 1) == b"\0"

    simulate(test, sim_seed)


def test_server_that_says_nothing_is_given_up(sim_seed) -> None:
    async def test(world: Simulated) -> None:
        world.network.listen(PATH, Silent)
        began = world.clock.monotonic()
        with pytest.raises(QmpError, match="Server does not answer within 30 seconds"):
            await world.open()
        assert world.clock.monotonic() - began < CONNECT_TIMEOUT_S + 1
        with pytest.raises(QmpError, match="Connection attempt cancelled by timeout"):
            await world.open(open_timeout=5)

    simulate(test, sim_seed)


class Silent(asyncio.BufferedProtocol):
    """A server that takes connections and says no word."""

    def get_buffer(self, sizehint: int) -> bytearray:
        return bytearray(1000)

    def buffer_updated(self, nbytes: int) -> None:
        pass


def test_server_that_closes_in_the_handshake_is_told_of_in_qemus_words(sim_seed) -> None:
    async def test(world: Simulated) -> None:
        world.network.listen(PATH, Closing)
        text = "Failed to read initial magic: Unexpected end-of-file before all bytes were read"
        with pytest.raises(QmpError, match=text):
            await world.open()

    simulate(test, sim_seed)


class Closing(Silent):
    """A server that hangs up."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport.close()


def test_server_that_answers_before_it_is_asked_is_refused(sim_seed) -> None:
    async def test(world: Simulated) -> None:
        world.network.listen(PATH, Hasty)
        with pytest.raises(QmpError, match="Server sent a reply before there was a request"):
            await world.open()

    simulate(test, sim_seed)


class Hasty(Silent):
    """A server that says all at once, and too much."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport.write(WHOLE + bytes(300 * K))


class Early(Silent):
    """A server that takes the beginning of a request and says that all of it was done."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        transport.write(WHOLE)
        self.buffer = bytearray()
        self.room = bytearray(1 << 16)

    def get_buffer(self, sizehint: int) -> bytearray:
        return self.room

    def buffer_updated(self, nbytes: int) -> None:
        self.buffer += self.room[:nbytes]
        if REQUEST_MAGIC.to_bytes(4, "big") in self.buffer:
            self.transport.pause_reading()
            self.transport.write(
                Replies(Mode.STRUCTURED).nothing(Request(0, Command.WRITE, 1, 0, MIB))
            )


def test_write_that_is_answered_before_it_was_sent_fails(sim_seed) -> None:
    async def test(world: Simulated) -> None:
        world.network.listen(PATH, Early)
        node = await world.open()
        await failing_with(errno.EIO, node.pwrite(0, bytes(MIB)))
        await failing_with(errno.EIO, node.pread(0, K))

    simulate(test, sim_seed)


def test_flags_of_zeroes_are_those_of_the_request(sim_seed) -> None:
    flags = {
        WriteFlags.NONE: CommandFlag.NO_HOLE,
        WriteFlags.MAY_UNMAP: 0,
        WriteFlags.MAY_UNMAP | WriteFlags.NO_FALLBACK: CommandFlag.FAST_ZERO,
        WriteFlags.FUA: CommandFlag.NO_HOLE | CommandFlag.FUA,
    }

    async def test(world: Simulated) -> None:
        node = await world.open()
        client = node.driver._client
        request, seen = client.request, []

        def note(command: Command, bits: int, *more: object) -> Awaitable[object]:
            seen.append(bits)
            return request(command, bits, *more)

        client.request = note
        for given in flags:
            await asyncio.gather(node.pwrite_zeroes(0, K, given), return_exceptions=True)
        assert seen == list(flags.values())

    simulate(test, sim_seed)


def test_unknown_export_is_refused_with_the_servers_words_as_a_note(sim_seed) -> None:
    async def test(world: Simulated) -> None:
        with pytest.raises(QmpError, match="Requested export not available") as caught:
            await world.open(export="nope")
        assert caught.value.__notes__ == ["server reported: export 'nope' not present"]

    simulate(test, sim_seed)


def test_read_only_export_is_opened_for_writing_only_by_leave(sim_seed) -> None:
    async def test(world: Simulated) -> None:
        with pytest.raises(QmpError, match=r"^NBD export is read-only$"):
            await world.open()
        node = await world.open(auto_read_only=True)
        assert node.read_only
        await failing_with(errno.EPERM, node.pwrite(0, b"x"))
        with pytest.raises(QmpError, match="Can't reopen read-only NBD mount as read/write"):
            await world.blockdev.set_read_only(node, False)
        assert (await world.open("plain", read_only=True)).read_only

    simulate(test, sim_seed, writable=False)


def test_resize_is_refused_in_qemus_words(sim_seed) -> None:
    async def test(world: Simulated) -> None:
        node = await world.open()
        for length in (2 * MIB, MIB // 2):
            with pytest.raises(QmpError, match="Cannot resize NBD nodes"):
                await node.truncate(length)
        await node.truncate(MIB)
        await failing_with(errno.ENOSPC, node.pwrite(MIB, b"x", grow=True))
        assert node.length == MIB

    simulate(test, sim_seed)


def test_closing_leaves_no_connection_at_the_server(sim_seed) -> None:
    async def test(world: Simulated) -> None:
        await world.open()
        (export,) = world.exports.offers()
        assert len(export.users) == 1
        await world.blockdev.delete("n")
        await asyncio.sleep(1)
        assert not export.users

    simulate(test, sim_seed)
