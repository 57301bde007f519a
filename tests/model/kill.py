"""The end of a process by ``kill -9``: what another process finds in the images.

All that was written to files is there; what was only in memory is lost, and with it what the guest
wrote since its last flush. No memory of the killed
emulator is looked at: only its files, and the model.
"""

from __future__ import annotations

import asyncio

from . import verify
from .disks import ModelNode
from .world import World


def kill_and_look(world: World) -> None:
    """End the emulator at once, and look at what it leaves."""
    world.storage = world.storage.killed()
    world.stats["killed"] += 1
    for disk in world.disks:
        for start, stop, stamp in disk.busy:  # nobody heard how they ended
            if stamp is not None:
                disk.top.contents.write_maybe(start, stop - start, stamp)
        disk.top.contents.killed()
    world.deaf = True
    world.do(let_go(world))
    world.deaf = False
    world.targets.clear()
    world.leaky = True
    world.do(verify.check_images(world))
    world.start()
    for disk in world.disks:
        for node in disk.nodes():
            node.rules = []
        world.do(world.plug(disk))
    for node in world.nodes():
        check_bitmaps(world, node)
    world.do(verify.check_disks(world))
    world.do(back_up_anew(world))


async def let_go(world: World) -> None:
    """Let the tasks of the killed emulator end, unheard."""
    others = [task for task in world.loop.tasks() if task is not asyncio.current_task()]
    for task in others:
        task.cancel()
    if others:
        await asyncio.wait(others)
    for task in others:
        if not task.cancelled():
            task.exception()
    world.events.forget()


async def back_up_anew(world: World) -> None:
    """A new full backup of each disk succeeds and shows the disk."""
    for disk in world.disks:
        name = f"anew{world.number()}"
        path = f"/{name}.qcow2"
        arguments = {"job_id": name, "device": disk.top.name, "sync": "full", "format": "qcow2"}
        world.deaf = True  # the model knows nothing of this job
        await world.execute("drive-backup", target=path, **arguments)
        await world.layer.jobs[name].wait()
        world.deaf = False
        data = await verify.read_chain(world, ((path, "qcow2"),), disk.size)
        wrong = disk.top.contents.differences(data)
        assert not wrong, f"{disk.device} backed up anew: {wrong[:8]}"


def check_bitmaps(world: World, node: ModelNode) -> None:
    """A bitmap of a writable image is inconsistent rather than wrong; a read-only one is right."""
    before, node.bitmaps = node.bitmaps, {}
    for name, real in world.layer.graph.nodes[node.name].bitmaps.items():
        here = f"{node.name}/{name}"
        if real.inconsistent:
            node.bitmaps[name] = verify.inconsistent(node, real)
            continue
        assert real.read_only, f"{here} claims to know what it cannot"
        bitmap = before[name]
        bitmap.must, bitmap.may = bitmap.stored or (bitmap.must, bitmap.may)
        bitmap.frozen = bitmap.stored = None
        bitmap.enabled = real.enabled
        bitmap.lose_base()
        node.bitmaps[name] = bitmap
