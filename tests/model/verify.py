"""Looking at what the emulator has made: disks, backups, images, and what is left at the end."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

from blkxact.block.drain import drained
from blkxact.block_layer import BlockLayer
from blkxact.drivers.qcow2.check import check_image
from blkxact.runtime.events import EventSink

from .bitmaps import Chain, ModelBitmap
from .contents import SECTOR, Contents, describe
from .disks import ModelNode
from .jobs import ModelJob
from .world import Refused, World, compare_bits

ROUNDS = 200


@contextmanager
def fast_storage(world: World) -> Any:
    """Read without waiting and without the faults that are ordered for the emulator."""
    storage = world.storage
    faults, latency = storage.faults.clear(), storage.latency
    storage.latency = None
    try:
        yield
    finally:
        storage.latency = latency
        for fault in faults:
            storage.faults.add(fault)


# Bringing things to an end


async def quiesce(world: World, rng: random.Random) -> None:
    """Let or make all jobs end, and all requests of the guests."""
    world.storage.faults.clear()
    for _ in range(ROUNDS):
        while world.guests.tasks:
            await asyncio.wait(list(world.guests.tasks))
        if not world.events.jobs:
            break
        for job in list(world.events.jobs.values()):
            await push(world, job)
        await asyncio.sleep(0.05)
    assert not world.events.jobs, "jobs do not come to an end"
    me = asyncio.current_task()
    while others := [task for task in world.loop.tasks() if task is not me]:
        await asyncio.wait(others)  # a job closes nodes after it was last heard of


async def push(world: World, job: ModelJob) -> None:
    """Do to a job what it waits for."""
    match job.status:
        case "created" | "running" | "paused":
            if job.sync == "none":
                await attempt(world, "job-cancel", id=job.id)
                return
            await attempt(world, "job-resume", id=job.id)
            await attempt(world, "block-job-set-speed", device=job.id, speed=0)
        case "pending":
            await attempt(world, "job-finalize", id=job.id)
        case "concluded":
            await attempt(world, "job-dismiss", id=job.id)


async def attempt(world: World, command: str, **arguments: Any) -> None:
    try:
        await world.execute(command, **arguments)
    except Refused:
        world.stats[f"{command} in vain"] += 1


async def shut_down(world: World) -> None:
    """End the daemon; nothing of it is left."""
    world.storage.faults.clear()
    world.closing = True
    foresee_what_is_stored(world)
    await world.layer.shutdown()
    while world.guests.tasks:
        await asyncio.wait(list(world.guests.tasks))
    world.closing = False
    world.targets.clear()
    for disk in world.disks:
        if not world.trouble:
            disk.top.contents.flushed(disk.top.contents.writes)
    check_nothing_runs(world)
    left = sorted(file.path for file in world.storage.open_files)
    assert not left, f"files left open: {left}"
    assert not world.layer.graph.nodes, f"nodes left: {list(world.layer.graph.nodes)}"
    await check_backups(world)


def foresee_what_is_stored(world: World) -> None:
    """Take note of what a shutdown makes of persistent bitmaps."""
    world.unstorable.clear()
    for node in world.nodes():
        real = world.layer.graph.nodes[node.name]
        for bitmap in node.bitmaps.values():
            if not real.read_only:  # also where it could not be reopened read-only
                bitmap.stored = None
            elif not real.bitmaps[bitmap.name].read_only:
                world.unstorable.add((node.name, bitmap.name))


def check_nothing_runs(world: World) -> None:
    """Check that nothing is left of jobs and transactions."""
    assert not world.layer.jobs, list(world.layer.jobs)
    assert not world.events.jobs
    assert not world.layer.transactions, [txn.report() for txn in world.layer.transactions]
    world.events.check_settled()
    world.follow_backups()
    assert not world.events.settled
    assert not world.events.txns, f"never reported: {list(world.events.txns)}"
    assert not world.events.preparing, world.events.preparing
    for node in world.nodes():
        for bitmap in node.bitmaps.values():
            assert bitmap.frozen is None, f"{node.name}/{bitmap.name} was never settled"


# Looking


async def check_all(world: World) -> None:
    """Check what must hold when nothing goes on."""
    check_nothing_runs(world)
    for name in list(world.targets):
        await world.execute("blockdev-del", node_name=name)
        del world.targets[name]
    await check_disks(world)
    await check_backups(world)
    open_paths = sorted(file.path for file in world.storage.open_files)
    expected = sorted(node.path for node in world.nodes())
    assert open_paths == expected, f"open: {open_paths}; expected: {expected}"
    count = sum(3 if node.rules else 2 for node in world.nodes())
    assert len(world.layer.graph.nodes) == count, f"nodes: {list(world.layer.graph.nodes)}"
    for node in world.layer.graph.nodes.values():
        reasons = {reason for reasons in node.blockers.values() for reason in reasons}
        assert not [reason for reason in reasons if "job" in reason], f"{node}: {reasons}"
        assert not node.sections, f"{node} is drained"
        assert not node.in_flight, f"{node} has requests"


async def check_disks(world: World) -> None:
    """Compare all disks, and what backups with sync=none show, with the model."""
    layer = world.layer
    async with layer.lock, drained(layer.graph.nodes[node.name] for node in world.nodes()):
        with fast_storage(world):
            for node in world.nodes():
                await compare(world, layer.graph.nodes[node.name], node.contents, node.name)
            for job in world.events.jobs.values():
                live = layer.jobs[job.id]
                if job.sync == "none" and job.ended is None and job.target_node is None:
                    assert job.snapshot is not None
                    await compare(world, live.target, job.snapshot, f"target of {job.id}")
                    world.stats["read while running"] += 1


async def compare(world: World, node: Any, contents: Contents, what: str) -> None:
    """Read a node of the emulator; it must hold what the model says."""
    try:
        data = bytes(await node.pread(0, contents.size))
    except OSError:
        assert world.trouble
        return
    wrong = contents.differences(data)
    assert not wrong, f"{what}: {describe(wrong, contents, data)}"
    contents.learn(data)


async def check_backups(world: World) -> None:
    """Read back every good backup that has ended since the last time."""
    finished, world.events.finished = world.events.finished, []
    for job in finished:
        world.stats[f"job {job.ended}"] += 1
        if job.ended == "completed" and job.sync != "none":
            await check_backup(world, job)


async def check_backup(world: World, job: ModelJob) -> None:
    """A good backup shows the disk as it was when its transaction was committed."""
    snapshot, bitmap = job.snapshot, job.bitmap
    assert snapshot is not None
    data = await read_chain(world, job.chain, snapshot.size)
    wrong = snapshot.differences(data)
    if not job.complete_chain:
        assert bitmap is not None
        inside: set[int] = set()
        for offset, length in bitmap.ranges(job.initial):
            inside.update(range(offset // SECTOR, (offset + length) // SECTOR))
        wrong = [sector for sector in wrong if sector in inside]
    kind = f"{job.sync} of {len(job.chain)}" if job.complete_chain else f"{job.sync} alone"
    assert not wrong, f"backup {job.id} ({kind}, {job.chain}): {describe(wrong, snapshot, data)}"
    world.stats[f"restored {kind}"] += 1


@asynccontextmanager
async def other_layer(world: World) -> AsyncIterator[BlockLayer]:
    """Yield another emulator over the same files, to look at them."""
    with fast_storage(world):
        clock = world.loop.clock
        layer = BlockLayer(world.storage, clock, EventSink(clock), rng=random.Random(0))
        try:
            yield layer
        finally:
            await layer.shutdown()


async def read_chain(world: World, chain: Chain, size: int) -> bytes:
    """Return what an image shows with the given images below it."""
    async with other_layer(world) as layer:
        options: dict[str, Any] | None = None
        for path, fmt in reversed(chain):
            file = {"driver": "file", "filename": path}
            above: dict[str, Any] = {
                "driver": fmt,
                "file": file,
                "read-only": True,
                "force-share": True,
            }
            if fmt == "qcow2":
                above["backing"] = options
            options = above
        assert options is not None
        node = await layer.blockdev.add(options | {"node-name": "top"})
        assert node.length == size
        return bytes(await node.pread(0, size))


async def check_images(world: World) -> None:
    """Check the metadata of every image that nobody has open."""
    leaks = world.trouble or world.leaky
    for node in world.nodes():
        if node.fmt != "qcow2":
            continue
        async with other_layer(world) as layer:
            options = node.options() | {"backing": None, "read-only": True, "force-share": True}
            options["file"] = {"driver": "file", "filename": node.path}
            live = await layer.blockdev.add(options)
            result = await check_image(live.driver.image)
            assert not result.corruptions, f"{node.path}: {result.messages}"
            assert leaks or not result.leaks, f"{node.path}: {result.messages}"


def forget_what_was_not_stored(world: World) -> None:
    """After a restart only persistent bitmaps are there."""
    for node in world.nodes():
        before, node.bitmaps = node.bitmaps, {}
        live = world.layer.graph.nodes[node.name].bitmaps
        for name, bitmap in before.items():
            may_go = world.trouble or (node.name, name) in world.unstorable
            assert may_go or name in live or not bitmap.persistent, f"{name} was not stored"
        for name, real in live.items():
            bitmap = before.get(name)
            if real.inconsistent:
                here = f"{node.name}/{name}"
                # It was so before, or the image could not be told that it was removed.
                known = bitmap is not None and bitmap.inconsistent
                assert known or world.trouble, f"{here} is inconsistent"
                node.bitmaps[name] = inconsistent(node, real)
                continue
            assert bitmap is not None, f"{node.name}/{name} is back"
            world.stats["bitmap reloaded"] += 1
            if real.read_only:
                # Enabled or disabled since its image became read-only: that is not stored.
                bitmap.enabled = real.enabled
            if bitmap.stored is not None:
                bitmap.must, bitmap.may = bitmap.stored
                bitmap.stored = None
            node.bitmaps[name] = bitmap


def inconsistent(node: ModelNode, real: Any) -> ModelBitmap:
    """Return the model of a bitmap that says nothing."""
    return ModelBitmap(
        node.name,
        real.name,
        node.contents.size,
        real.granularity,
        enabled=False,
        persistent=True,
        inconsistent=True,
    )


__all__ = ["check_all", "compare_bits", "quiesce", "shut_down"]
