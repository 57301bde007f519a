"""Requests on a node: ranges, errnos, recording, counting, alignment, flush."""

from __future__ import annotations

import asyncio
import errno

import pytest
from block_fakes import (
    DATA,
    READ_WRITE,
    FilterDriver,
    FormatDriver,
    P,
    Root,
    ScriptedDriver,
    make_node,
)
from tests.environment import environment

from blkxact.bitmap import DirtyBitmap
from blkxact.block.backend import BlockBackend
from blkxact.block.graph import Graph
from blkxact.block.node import MAX_LENGTH
from blkxact.block.types import WriteFlags
from blkxact.errors import QmpError
from blkxact.runtime.release import RELEASES
from blkxact.testing.waiting import until_idle

KIB = 1 << 10


def node_with_bitmap(**how):
    node = make_node(Graph(), "n", **how)
    bitmap = node.bitmaps["b"] = DirtyBitmap(node.length, KIB, "b")
    return node, bitmap


async def fails(request, code):
    with pytest.raises(OSError) as error:  # noqa: PT011 - its errno is compared
        await request
    assert error.value.errno == code


async def test_pread_beyond_the_end_gives_zeroes():
    node = make_node(Graph(), "n", size=1000)
    node.driver.data[:] = b"x" * 1000
    assert node.length == 1024
    assert await node.pread(990, 34) == b"x" * 10 + bytes(24)
    assert await node.pread(5000, 3) == bytes(3)


@pytest.mark.parametrize(("offset", "length"), [(-1, 1), (0, -1), (MAX_LENGTH, 1)])
async def test_request_outside_of_any_image_fails_with_eio(offset, length):
    node = make_node(Graph(), "n")
    node.discard = True
    await fails(node.pread(offset, length), errno.EIO)
    await fails(node.pwrite_zeroes(offset, length), errno.EIO)
    await fails(node.pdiscard(offset, length), errno.EIO)


async def test_write_to_read_only_node_fails_with_eperm():
    node = make_node(Graph(), "n", read_only=True)
    node.discard = True
    await fails(node.pwrite(0, b"x"), errno.EPERM)
    await fails(node.pwrite_zeroes(0, 1), errno.EPERM)
    await fails(node.pdiscard(0, 1), errno.EPERM)
    with pytest.raises(QmpError, match=r"^Image is read-only$"):
        await node.truncate(1)
    assert node.driver.log == []


async def test_write_beyond_the_end_needs_a_parent_that_may_resize():
    graph = Graph()
    node = make_node(graph, "n", size=KIB)
    bitmap = node.bitmaps["b"] = DirtyBitmap(KIB, KIB, "b")
    edge = graph.attach(Root(), node, perm=READ_WRITE)
    await fails(edge.pwrite(KIB - 1, b"xy"), errno.EIO)
    graph.set_permissions(edge, READ_WRITE | P.RESIZE, P.ALL)
    await edge.pwrite(KIB, b"xy")
    assert node.length == KIB + 512
    assert bitmap.size == KIB + 512
    assert list(bitmap.runs()) == [(KIB, 512)]


async def test_write_within_the_last_sector_of_a_short_file_is_inside():
    node = make_node(Graph(), "n", size=1000)
    await node.pwrite(1000, b"x" * 24)
    assert node.driver.length == 1024


@pytest.mark.parametrize("failing", [False, True])
async def test_writes_of_every_kind_are_recorded_also_when_they_fail(failing):
    node, bitmap = node_with_bitmap()
    node.discard = True
    if failing:
        node.driver.errors = dict.fromkeys(("pwrite", "pwrite_zeroes", "pdiscard"), errno.ENOSPC)
    results = await asyncio.gather(
        node.pwrite(0, b"x"),
        node.pwrite_zeroes(4 * KIB, 1),
        node.pdiscard(8 * KIB, KIB),
        return_exceptions=True,
    )
    assert [isinstance(result, OSError) for result in results] == [failing] * 3
    assert list(bitmap.runs()) == [(0, KIB), (4 * KIB, KIB), (8 * KIB, KIB)]


async def test_write_is_recorded_when_it_ends():
    node, bitmap = node_with_bitmap()
    node.driver.hold = asyncio.Event()
    task = asyncio.create_task(node.pwrite(0, b"x"))
    await until_idle()
    assert bitmap.count() == 0
    node.driver.hold.set()
    await task
    assert bitmap.count() == KIB


async def test_disabled_bitmap_records_nothing():
    node, bitmap = node_with_bitmap()
    bitmap.enabled = False
    await node.pwrite(0, b"x")
    assert bitmap.count() == 0


async def test_read_only_bitmap_refuses_writes_with_eperm():
    node, bitmap = node_with_bitmap()
    bitmap.read_only = True
    await fails(node.pwrite(0, b"x"), errno.EPERM)
    await fails(node.pdiscard(0, 1), errno.EPERM)


async def test_discard_without_the_option_does_nothing():
    node, bitmap = node_with_bitmap()
    await node.pdiscard(0, KIB)
    assert (node.driver.log, bitmap.count()) == ([], 0)


async def test_discard_that_the_driver_cannot_do_is_no_error():
    node, _ = node_with_bitmap()
    node.discard = True
    node.driver.errors = {"pdiscard": errno.ENOTSUP}
    await node.pdiscard(0, KIB)
    assert node.driver.log[-1] == ("pdiscard", 0, KIB)


async def test_zeroes_that_the_driver_cannot_make_are_written():
    node, _ = node_with_bitmap(size=5 << 20)
    node.driver.data[:] = b"x" * (5 << 20)
    node.driver.errors = {"pwrite_zeroes": errno.ENOTSUP}
    await node.pwrite_zeroes(1, (4 << 20) + 1)
    assert bytes(node.driver.data) == b"x" + bytes((4 << 20) + 1) + b"x" * ((1 << 20) - 2)
    await fails(node.pwrite_zeroes(0, 1, WriteFlags.NO_FALLBACK), errno.ENOTSUP)


@pytest.mark.parametrize("discard", [False, True])
@pytest.mark.parametrize("release", RELEASES)
@pytest.mark.parametrize("from_root", [False, True])
async def test_zeroes_unmap_as_the_option_discard_says(from_root, release, discard):
    """Before QEMU 9.1 it says so only to other nodes."""
    graph = Graph()
    node = make_node(graph, "n")
    node.discard = discard
    node.driver.context = node.driver.context._replace(env=environment(release=RELEASES[release]))
    top = node if from_root else make_node(graph, "filter", FilterDriver, file=node)
    backend = BlockBackend(graph, perm=READ_WRITE)
    backend.insert(top)
    await (backend if from_root else top.children["file"]).pwrite_zeroes(
        0, KIB, WriteFlags.MAY_UNMAP
    )
    unmaps = discard or (from_root and RELEASES[release] < (9, 1))
    expected = WriteFlags.MAY_UNMAP if unmaps else WriteFlags.NONE
    assert [entry[3] for entry in node.driver.log] == [expected]


@pytest.mark.parametrize(
    ("mode", "payload", "expected"),
    [
        ("off", bytes(KIB), ("pwrite", 0, KIB)),
        ("on", bytes(KIB), ("pwrite_zeroes", 0, KIB, WriteFlags.NONE)),
        ("unmap", bytes(KIB), ("pwrite_zeroes", 0, KIB, WriteFlags.MAY_UNMAP)),
        ("on", bytes(100) + b"x" + bytes(923), ("pwrite", 0, KIB)),
    ],
)
async def test_detect_zeroes_makes_zeroes_of_zero_payloads(mode, payload, expected):
    node, _ = node_with_bitmap()
    node.detect_zeroes, node.discard = mode, mode == "unmap"
    await node.pwrite(0, payload)
    assert node.driver.log == [expected]


async def test_fua_write_is_followed_by_a_flush():
    node, _ = node_with_bitmap()
    await node.pwrite(0, b"x", WriteFlags.FUA)
    await node.pwrite_zeroes(0, KIB, WriteFlags.FUA)
    assert [entry[0] for entry in node.driver.log] == ["pwrite", "flush", "pwrite_zeroes", "flush"]


async def test_flush_without_a_write_since_the_last_is_free():
    node, _ = node_with_bitmap()
    await node.flush()
    await node.pwrite(0, b"x")
    await node.flush()
    await node.flush()
    assert [entry[0] for entry in node.driver.log] == ["pwrite", "flush"]


async def test_flush_that_failed_is_tried_again():
    node, _ = node_with_bitmap()
    await node.pwrite(0, b"x")
    node.driver.errors = {"flush": errno.EIO}
    await fails(node.flush(), errno.EIO)
    node.driver.errors.clear()
    await node.flush()
    assert [entry[0] for entry in node.driver.log] == ["pwrite", "flush", "flush"]


async def test_flush_does_not_cover_a_write_that_began_after_it():
    node, _ = node_with_bitmap()
    await node.pwrite(0, b"x")
    node.driver.hold = asyncio.Event()
    first = asyncio.create_task(node.flush())
    await until_idle()
    node.driver.hold, hold = None, node.driver.hold
    await node.pwrite(1, b"y")
    second = asyncio.create_task(node.flush())
    await until_idle()
    assert not second.done()
    hold.set()
    await asyncio.gather(first, second)
    assert [entry[0] for entry in node.driver.log] == ["pwrite", "flush", "pwrite", "flush"]


async def test_idle_waits_for_the_last_request_and_survives_failures():
    node, _ = node_with_bitmap()
    node.driver.hold = asyncio.Event()
    node.driver.errors = {"pwrite": errno.EIO}
    requests = [asyncio.create_task(node.pwrite(0, b"x")), asyncio.create_task(node.pread(0, 1))]
    await until_idle()
    assert node.in_flight == 2
    idle = asyncio.create_task(node.idle())
    await until_idle()
    assert not idle.done()
    node.driver.hold.set()
    await idle
    assert node.in_flight == 0
    await asyncio.gather(*requests, return_exceptions=True)


async def test_cancelled_request_is_no_longer_counted():
    node, bitmap = node_with_bitmap()
    node.driver.hold = asyncio.Event()
    task = asyncio.create_task(node.pwrite(0, b"x"))
    await until_idle()
    task.cancel()
    await asyncio.wait([task])
    assert node.is_idle()
    assert bitmap.count() == KIB


async def test_truncate_resizes_bitmaps_and_tells_parents():
    node, bitmap = node_with_bitmap()
    told = []
    root = Root()
    root.resized = lambda: told.append(node.length)
    Graph().attach(root, node)
    await node.truncate(3 * KIB)
    assert (node.length, bitmap.size, told) == (3 * KIB, 3 * KIB, [3 * KIB])
    with pytest.raises(QmpError, match=r"^Image size cannot be negative$"):
        await node.truncate(-1)


async def test_truncate_over_a_longer_backing_file_hides_its_data():
    graph = Graph()
    base = make_node(graph, "base", size=8 * KIB)
    top = make_node(graph, "top", FormatDriver, size=2 * KIB, backing=base)
    await top.truncate(16 * KIB)
    assert ("pwrite_zeroes", 2 * KIB, 6 * KIB, WriteFlags.NONE) in top.driver.log


async def test_debug_events_reach_a_driver_that_wants_them():
    class Watcher(FilterDriver):
        has_debug_events = True

        async def debug_event(self, event):
            self.log.append((event,))

    graph = Graph()
    watcher = make_node(graph, "w", Watcher, file=make_node(graph, "file"))
    top = make_node(graph, "top", FilterDriver, file=watcher)
    edge = graph.attach(Root(), top, perm=READ_WRITE)
    await edge.pwrite(0, b"x")
    await edge.flush()
    await top.children["file"].debug_event("l2_update")
    assert [e[0] for e in watcher.driver.log] == [
        "pwritev",
        "pwrite",
        "pwritev_done",
        "flush_to_os",
        "flush_to_disk",
        "l2_update",
    ]


class AlignedDriver(ScriptedDriver):
    """Asserts that requests are whole units."""

    request_alignment = 512

    async def _step(self, name, *what):
        if name in {"pread", "pwrite", "pwrite_zeroes", "pdiscard", "block_status"}:
            assert what[0] % 512 == 0, (name, what)
            assert what[1] % 512 == 0, (name, what)
        await super()._step(name, *what)


async def test_misaligned_requests_equal_a_plain_image(seeded):
    node = make_node(Graph(), "n", AlignedDriver, size=8 * KIB)
    node.discard = True
    model = bytearray(8 * KIB)
    for _ in range(300):
        offset = seeded.randrange(8 * KIB)
        length = seeded.randrange(1, 8 * KIB - offset + 1)
        kind = seeded.choice(("read", "write", "zero"))
        if kind == "write":
            payload = seeded.randbytes(length)
            await node.pwrite(offset, payload)
            model[offset : offset + length] = payload
        elif kind == "zero":
            await node.pwrite_zeroes(offset, length)
            model[offset : offset + length] = bytes(length)
        assert bytes(await node.pread(offset, length)) == model[offset : offset + length]
    assert bytes(node.driver.data) == model


async def test_misaligned_writes_to_one_unit_at_a_time_lose_nothing():
    class Slow(AlignedDriver):
        async def _step(self, name, *what):
            await super()._step(name, *what)
            await asyncio.sleep(0)

    node = make_node(Graph(), "n", Slow, size=KIB)
    pieces = [(offset, bytes([offset % 251]) * 10) for offset in range(0, 1020, 10)]
    await asyncio.gather(*(node.pwrite(offset, data) for offset, data in pieces))
    for offset, data in pieces:
        assert node.driver.data[offset : offset + 10] == data


async def test_misaligned_write_records_the_units_it_wrote():
    node = make_node(Graph(), "n", AlignedDriver, size=8 * KIB)
    node.driver.request_alignment = 4096
    node.opened(node.driver)
    bitmap = node.bitmaps["b"] = DirtyBitmap(node.length, 512, "b")
    await node.pwrite(5000, b"x")
    assert list(bitmap.runs()) == [(4096, 4096)]


async def test_misaligned_discard_touches_only_whole_units():
    node = make_node(Graph(), "n", AlignedDriver, size=8 * KIB)
    node.discard = True
    await node.pdiscard(100, 2000)
    await node.pdiscard(100, 100)
    assert node.driver.log == [("pdiscard", 512, 1536)]


async def test_misaligned_zeroes_without_fallback_are_refused():
    node = make_node(Graph(), "n", AlignedDriver, size=8 * KIB)
    await fails(node.pwrite_zeroes(1, 512, WriteFlags.NO_FALLBACK), errno.ENOTSUP)


async def test_block_status_of_misaligned_range_is_cut_to_it():
    node = make_node(Graph(), "n", AlignedDriver, size=8 * KIB)
    extents = await node.block_status(100, 50)
    assert [(e.offset, e.length, e.status) for e in extents] == [(100, 50, DATA)]


async def test_pwrite_runs_records_each_run_and_nothing_between():
    node, bitmap = node_with_bitmap()
    await node.pwrite_runs([(0, b"x" * KIB), (4 * KIB, b"y" * 2 * KIB)])
    assert list(bitmap.runs()) == [(0, KIB), (4 * KIB, 2 * KIB)]
    assert bytes(await node.pread(3 * KIB, 2 * KIB)) == bytes(KIB) + b"y" * KIB
    assert node.is_idle()


async def test_pwrite_runs_failed_are_recorded_as_if_written():
    node, bitmap = node_with_bitmap()
    node.driver.errors["pwrite"] = errno.ENOSPC
    await fails(node.pwrite_runs([(0, b"x" * KIB), (4 * KIB, b"y" * KIB)]), errno.ENOSPC)
    assert list(bitmap.runs()) == [(0, KIB), (4 * KIB, KIB)]
    assert node.is_idle()


async def test_pwrite_runs_refused_on_a_node_that_cannot_be_written():
    node, bitmap = node_with_bitmap()
    bitmap.read_only = True
    await fails(node.pwrite_runs([(0, b"x")]), errno.EPERM)
    await fails(make_node(Graph(), "m").pwrite_runs([(0, b"x"), (1 << 40, b"x")]), errno.EIO)
    assert node.driver.log == []


async def test_pwrite_runs_with_detect_zeroes_makes_zeroes_of_zero_runs():
    node = make_node(Graph(), "n")
    node.detect_zeroes = "on"
    await node.pwrite_runs([(0, b"x" * KIB), (4 * KIB, bytes(KIB))])
    assert [entry[0] for entry in node.driver.log] == ["pwrite", "pwrite_zeroes"]
