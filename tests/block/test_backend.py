"""Backends: the way in, its limits, and its waiting."""

from __future__ import annotations

import asyncio
import errno

import pytest
from block_fakes import READ_WRITE, P, make_node

from blkxact.block.backend import BlockBackend
from blkxact.block.graph import Graph
from blkxact.block.types import WriteFlags
from blkxact.errors import QmpError
from blkxact.testing.waiting import until_idle

KIB = 1 << 10


def guest(size=KIB, **how):
    graph = Graph()
    node = make_node(graph, "n", size=size)
    backend = BlockBackend(graph, "drive0", perm=READ_WRITE | P.RESIZE, **how)
    backend.insert(node)
    return backend, node


async def fails(request, code):
    with pytest.raises(OSError) as error:  # noqa: PT011 - its errno is compared
        await request
    assert error.value.errno == code


@pytest.mark.parametrize(("offset", "length"), [(-1, 1), (0, KIB + 1), (KIB, 1), (KIB + 1, 0)])
async def test_request_outside_of_the_disk_fails_with_eio(offset, length):
    backend, node = guest()
    node.discard = True
    await fails(backend.pread(offset, length), errno.EIO)
    await fails(backend.pwrite(offset, bytes(length)), errno.EIO)
    await fails(backend.pwrite_zeroes(offset, length), errno.EIO)
    await fails(backend.pdiscard(offset, length), errno.EIO)
    assert node.driver.log == []
    assert backend.is_idle()


async def test_request_beyond_the_end_passes_where_it_may():
    backend, node = guest()
    backend.write_beyond_end = True
    await backend.pwrite(KIB, b"x" * 512)
    assert backend.length == node.length == KIB + 512


async def test_request_without_medium_fails_with_enomedium():
    backend, node = guest()
    backend.remove()
    await fails(backend.pread(0, 1), errno.ENOMEDIUM)
    await fails(backend.flush(), errno.ENOMEDIUM)
    with pytest.raises(QmpError, match=r"^No medium inserted$"):
        await backend.truncate(0)
    backend.insert(node)
    backend.tray_open = True
    await fails(backend.pread(0, 1), errno.ENOMEDIUM)


async def test_writes_without_a_write_cache_are_durable():
    backend, node = guest()
    backend.write_cache = False
    await backend.pwrite(0, b"x")
    await backend.pwrite_zeroes(0, 512)
    assert [entry[0] for entry in node.driver.log] == ["pwrite", "flush", "pwrite_zeroes", "flush"]
    assert node.driver.log[2][3] == WriteFlags.NONE


async def test_waiting_requests_go_on_in_order_of_arrival():
    backend, node = guest()
    backend.quiesce()
    tasks = [asyncio.create_task(backend.pwrite(n, b"x")) for n in range(5)]
    await until_idle()
    assert backend.is_idle()
    backend.resume()
    await asyncio.gather(*tasks)
    assert [entry[1] for entry in node.driver.log] == [0, 1, 2, 3, 4]


async def test_waiting_request_that_is_cancelled_harms_no_other():
    backend, node = guest()
    backend.quiesce()
    tasks = [asyncio.create_task(backend.pread(n, 1)) for n in range(3)]
    await until_idle()
    tasks[1].cancel()
    backend.resume()
    await asyncio.wait(tasks)
    assert [entry[1] for entry in node.driver.log] == [0, 2]


async def test_request_that_was_woken_waits_again_if_stopped_again():
    backend, node = guest()
    backend.quiesce()
    task = asyncio.create_task(backend.pread(0, 1))
    await until_idle()
    backend.resume()
    backend.quiesce()
    await until_idle()
    assert node.driver.log == []
    backend.resume()
    await task


async def test_medium_gone_while_waiting_fails_with_enomedium():
    backend, _ = guest()
    backend.quiesce()
    task = asyncio.create_task(backend.pread(0, 1))
    await until_idle()
    backend.remove()
    backend.resume()
    await fails(task, errno.ENOMEDIUM)


async def test_set_permissions_that_conflict_change_nothing():
    backend, node = guest()
    other = BlockBackend(backend.graph, "drive1", shared=P.ALL & ~P.RESIZE)
    with pytest.raises(QmpError, match="'resize' are both required by block device 'drive0'"):
        other.insert(node)
    assert other.node is None
    backend.set_permissions(READ_WRITE, P.ALL)
    other.insert(node)
    with pytest.raises(QmpError, match="unshared by block device 'drive1'"):
        backend.set_permissions(P.RESIZE, P.ALL)
    assert (backend.perm, backend.root.perm) == (READ_WRITE, READ_WRITE)


async def test_descriptions_are_qemus():
    graph = Graph()
    assert BlockBackend(graph, "d", qdev_id="q").parent_description() == "block device 'd'"
    assert BlockBackend(graph, qdev_id="q").parent_description() == "block device 'q'"
    assert BlockBackend(graph).parent_description() == "an unnamed block device"


async def test_close_gives_the_name_back_and_lets_the_node_go():
    backend, node = guest()
    backend.graph.unref(node)
    backend.close()
    await backend.graph.settled()
    assert (backend.graph.backends, backend.graph.nodes) == ({}, {})
    assert node.driver.closed
