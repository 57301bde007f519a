"""The steps of a run: each takes its chances from ``rng`` and checks the invariants."""

from __future__ import annotations

import asyncio
import errno
import random
from collections.abc import Callable
from typing import Any

from blkxact.testing.faults import Fault

from . import verify
from .disks import random_range
from .kill import kill_and_look
from .transactions import Plan
from .world import Refused, World

VERBS = {
    "job-pause": {"created", "running", "paused"},
    "job-resume": {"created", "running", "paused"},
    "job-cancel": {"created", "running", "paused", "waiting", "pending"},
    "job-finalize": {"pending"},
    "job-dismiss": {"concluded"},
}
"""Which verb may be accepted in which status; all others must refuse."""


def guest(world: World, rng: random.Random) -> None:
    """Start a few requests of the guest."""

    async def work() -> None:
        for _ in range(rng.randint(1, 6)):
            disk = rng.choice(world.disks)
            kind = rng.choice(["write", "write", "write", "zero", "discard", "read", "flush"])
            world.guests.start(disk, kind, *random_range(rng, disk.size))
            if rng.random() < 0.3:
                await asyncio.sleep(rng.random() * 0.004)

    world.do(work())


def wait(world: World, rng: random.Random) -> None:
    """Let some time pass."""
    world.do(asyncio.sleep(rng.choice([0, 0.001, 0.01, 0.1])))


def transaction(world: World, rng: random.Random) -> None:
    """Run a transaction of several actions."""
    world.do(Plan(world, rng).run())


def main_job(world: World, rng: random.Random) -> None:
    """Back up all disks in one transaction, incrementally where that is possible."""
    world.do(Plan(world, rng, main_job=True).run())


def bitmap_command(world: World, rng: random.Random) -> None:
    """Run an action on a bitmap as a plain command."""
    world.do(Plan(world, rng, alone=True, jobs=False).run())


def backup_command(world: World, rng: random.Random) -> None:
    """Start one backup as a plain command."""
    world.do(Plan(world, rng, alone=True, jobs=True).run())


def job_verb(world: World, rng: random.Random) -> None:
    """Do something to a job, allowed or not."""
    if not world.events.jobs:
        return
    job = rng.choice(list(world.events.jobs.values()))
    verb = rng.choice([*VERBS, "block-job-set-speed", "job-cancel"])
    arguments: dict[str, Any] = {"id": job.id}
    if verb == "block-job-set-speed":
        arguments = {"device": job.id, "speed": rng.choice([0, 1 << 16, 1 << 20, 1 << 24])}

    async def work() -> None:
        async with world.layer.lock:
            before, seen = job.status, len(job.statuses)
        try:
            await world.execute(verb, **arguments)
        except Refused:
            world.stats[f"{verb} refused"] += 1
            if verb in ("job-cancel", "job-finalize", "job-dismiss"):
                assert before not in VERBS[verb] or job.status != before
        else:
            world.stats[verb] += 1
            if verb in VERBS:
                since = job.statuses[seen - 1 :]  # the verb came in one of these
                assert VERBS[verb] & set(since), (verb, since)

    world.do(work())


def fault(world: World, rng: random.Random) -> None:
    """Let a request to a file fail, now or later."""
    paths = [node.path for node in world.nodes()] + list(world.targets.values())
    paths += [job.path for job in world.events.jobs.values()] * 2
    world.trouble = True
    world.storage.faults.add(
        Fault(
            failure=rng.choice([errno.EIO, errno.EIO, errno.ENOSPC]),
            point="storage." + rng.choice(["pread", "pwrite", "pwrite", "write_zeroes", "discard"]),
            where={"path": rng.choice(paths)},
            skip=rng.choice([0, 0, 1, 3, 10]),
            times=rng.choice([1, 1, 2]),
            partial=rng.random() < 0.3,
        )
    )


def delete_node(world: World, rng: random.Random) -> None:
    """Delete a node; one that is in use has to stay."""
    in_use = {job.target_node for job in world.events.jobs.values() if job.status != "concluded"}

    async def work() -> None:
        names = [node.name for node in world.nodes()] + list(world.targets)
        name = rng.choice(names)
        try:
            await world.execute("blockdev-del", node_name=name)
        except Refused:
            world.stats["blockdev-del refused"] += 1
        else:
            world.stats["blockdev-del"] += 1
            assert name in world.targets, f"{name} was in use"
            assert name not in in_use or all(
                job.target_node != name or job.ended for job in world.events.jobs.values()
            )
            del world.targets[name]

    world.do(work())


def settle(world: World, rng: random.Random) -> None:
    """Bring all jobs to an end, then check all that must hold when nothing goes on."""
    world.do(verify.quiesce(world, rng))
    world.do(verify.check_all(world))


def restart(world: World, rng: random.Random) -> None:
    """Shut the daemon down, whatever goes on, and start another."""
    world.do(verify.shut_down(world))
    world.do(verify.check_images(world))
    world.start()
    for disk in world.disks:
        for node in disk.nodes()[1:]:
            node.rules = []  # no blkdebug node can be asked for in what a header names
        world.do(world.plug(disk))
    verify.forget_what_was_not_stored(world)
    world.stats["restart"] += 1


def kill(world: World, rng: random.Random) -> None:
    """Kill the process, whatever goes on, and start another."""
    kill_and_look(world)


def read_all(world: World, rng: random.Random) -> None:
    """Compare the disks with the model, guests held back."""
    world.do(verify.check_disks(world))


Step = Callable[[World, random.Random], None]

STEPS: dict[Step, int] = {
    guest: 30,
    wait: 10,
    transaction: 12,
    main_job: 8,
    bitmap_command: 8,
    backup_command: 6,
    job_verb: 12,
    fault: 3,
    delete_node: 2,
    settle: 6,
    restart: 2,
    kill: 1,
    read_all: 1,
}
"""The steps, and how often each is taken among all."""


def take(world: World, step: Step, rng: random.Random) -> None:
    """Take a step and check the invariants that hold at any time."""
    world.events.log.append(f"== {step.__name__}")
    world.failed = True
    step(world, rng)
    world.check()
    world.failed = False


def finish(world: World, rng: random.Random) -> None:
    """End a run in good order: nothing is left behind."""
    take(world, settle, rng)
    world.do(verify.shut_down(world))
    world.do(verify.check_images(world))
    world.loop.check_nothing_left()


__all__ = ["STEPS", "finish", "take"]
