"""Every command with random arguments: an answer or a refusal, never an internal error."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
from typing import Any

import pytest

from blkxact.commands import COMMANDS, commands_of
from blkxact.errors import QmpError
from blkxact.machine.options import CommandSet
from blkxact.qapi.common import NoArguments
from blkxact.qapi.describe import Alternate, Array, Builtin, Enum, Struct, Type, Union_, describe

from .conftest import MIB, Emulator

MESSAGES = int(os.environ.get("BLKXACT_RANDOM_MESSAGES", "3000"))
"""A longer run is made by hand."""
PER_EMULATOR = 250
"""Messages to one emulator."""
MAX_DEPTH = 4
LEFT_OUT = frozenset({"quit", "nbd-server-start", "human-monitor-command", "qmp_capabilities"})
"""The end, real sockets, other files' tests, and the session's."""

NAMES = (
    *("a", "b", "t", "f", "w", "bus0", "cd", "j", "bm", "io1", "g", "e", "none", ""),
    *("/machine/peripheral/w", "/objects", "/", "#block001", "scsi-hd", "virtio-blk", "scsi-cd"),
    *("/a.qcow2", "/t.qcow2", "/new.qcow2", "json:{", "null-co://", "drive", "share-rw", "type"),
)
VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 512, MIB, 2**31, 2**63 - 1, 2**63, 2**64, 1.5, "5", "on"),
    *([], {}, [1], ["a"], {"a": 1}, [[]], {"": None}, "\udc80", "x" * 300),
)
DEVICE_MEMBERS = ("driver", "drive", "id", "bus", "share-rw", "serial", "rerror", "write-cache")


class Inventor:
    """Makes values of a type, and now and then of another."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng

    def arguments(self, name: str) -> dict[str, Any]:
        if name == "device_add":
            chosen = self.rng.sample(DEVICE_MEMBERS, self.rng.randrange(1, 6))
            return {member: self.scalar() for member in chosen}
        made = self.value(describe(COMMANDS[name].model or NoArguments))
        return made if isinstance(made, dict) else {}

    def scalar(self) -> Any:
        return self.rng.choice(NAMES) if self.rng.random() < 0.8 else self.rng.choice(VALUES)

    def value(self, kind: Type, depth: int = 0) -> Any:
        if depth and self.rng.random() < 0.08:
            return self.rng.choice(VALUES)
        match kind:
            case Builtin(name="string"):
                return self.rng.choice(NAMES)
            case Builtin(name="boolean"):
                return self.rng.random() < 0.5
            case Builtin() if kind.integer is not None:
                return self.rng.choice([0, 1, 512, 65536, MIB, -1, 2**40])
            case Enum():
                return self.rng.choice(sorted(kind.values))
            case Array(item=item):
                return [self.value(item, depth + 1) for _ in range(self.rng.randrange(3))]
            case Struct():
                return self.members(kind, depth)
            case Union_(tag=tag, branches=branches):
                branch = self.rng.choice(sorted(branches))
                return {**self.members(branches[branch], depth), tag: branch}
            case Alternate(branches=branches) if depth < MAX_DEPTH:
                return self.value(self.rng.choice(list(branches.values())), depth + 1)
        return self.scalar()

    def members(self, struct: Struct, depth: int) -> dict[str, Any]:
        made = {
            name: self.value(member.type, depth + 1)
            for name, member in struct.members.items()
            if depth < MAX_DEPTH and self.rng.random() < (0.25 if member.optional else 0.95)
        }
        if self.rng.random() < 0.03:
            made["x"] = self.scalar()
        return made


async def furnished() -> Emulator:
    """Return an emulator that has one of everything."""
    emulator = Emulator()
    for name in ("a", "t"):
        await emulator.create_disk(name, MIB)
        await emulator.add_disk(name)
    await emulator.execute("blockdev-add", driver="null-co", node_name="b", size=MIB)
    await emulator.execute("device_add", driver="virtio-scsi", id="bus0")
    await emulator.execute("device_add", driver="scsi-hd", id="w", drive="a")
    await emulator.execute("device_add", driver="scsi-cd", id="cd")
    await emulator.execute("object-add", qom_type="iothread", id="io1")
    await emulator.execute("object-add", qom_type="throttle-group", id="g")
    await emulator.execute("block-dirty-bitmap-add", node="a", name="bm")
    return emulator


@pytest.mark.filterwarnings("error")
async def test_random_messages_end_in_no_internal_error(seeded: random.Random) -> None:
    inventor = Inventor(seeded)
    names = sorted(commands_of(CommandSet.ALL).keys() - LEFT_OUT)
    emulator = await furnished()
    for number in range(MESSAGES):
        if number and number % PER_EMULATOR == 0:
            await finish(emulator)
            emulator = await furnished()
        name = seeded.choice(names)
        arguments = inventor.arguments(name)
        try:
            await emulator.execute_wire(name, arguments)
        except QmpError:
            pass
        except Exception as error:
            raise AssertionError((name, arguments)) from error
    await finish(emulator)


async def finish(emulator: Emulator) -> None:
    """End the jobs and close everything."""
    for job in list(emulator.layer.jobs.values()):
        with contextlib.suppress(QmpError):
            await emulator.execute("job-resume", id=str(job.id))
    async with asyncio.timeout(60):
        await emulator.layer.shutdown()
