"""Random scripts: the same seed gives the same script.

Names come from small pools, so that most commands meet something that is there, and many meet
something that is in use.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from typing import Any, Final

from blkxact.qmp.json_text import encode_text

from .script import SLOW, Script, command

KIB: Final = 1 << 10
MIB: Final = 1 << 20
SIZE: Final = 4 * MIB
"""Of each disk, in bytes."""

IMAGES = (
    "create -q -f qcow2 a.qcow2 4M",
    "create -q -f qcow2 -o cluster_size=16k b.qcow2 4M",
    "create -q -f qcow2 base.qcow2 4M",
    "create -q -f qcow2 -F qcow2 -b base.qcow2 over.qcow2",
    "create -q -f raw c.raw 4M",
    "create -q -f qcow2 t.qcow2 4M",
    "create -q -f raw u.raw 4M",
)
FILES = tuple(line.split()[-2 if line.split()[-1] == "4M" else -1] for line in IMAGES)
NODES = ("a", "b", "over", "c", "t", "u", "n")
BITMAPS = ("b0", "b1", "b2")
JOBS = ("j0", "j1", "j2", "slow0")
DEVICES = ("d0", "d1")
SNAPSHOTS = ("s0", "s1")
GROUPS = ("g0", "g1")
SETUP = (
    command("nbd-server-start", addr={"type": "unix", "data": {"path": "nbd"}}),
    command("object-add", qom_type="throttle-group", id="g0"),
)
MALFORMED = (
    "{}",
    "[]",
    "1",
    '"x"',
    "null",
    "{'execute': 'query-name'}",
    '{"execute": 1}',
    '{"execute": "no-such-command"}',
    '{"execute": "query-name", "arguments": []}',
    '{"execute": "query-name", "arguments": {"x": 1}}',
    '{"execute": "query-name", "extra": 1}',
    '{"exec-oob": "query-name"}',
    '{"execute": "blockdev-add", "arguments": {"driver": "no-such-driver"}}',
    '{"execute": "blockdev-add", "arguments": {"driver": "null-co", "size": "x"}}',
    '{"execute": "block-dirty-bitmap-add", "arguments": {"node": "a"}}',
    '{"execute": "qmp_capabilities"}',
    '{"id": [1, {"a": null}], "execute": "query-name"}',
)


class Generator:
    """Makes one script from one seed."""

    def __init__(self, seed: int) -> None:
        self._rng = random.Random(seed)  # noqa: S311 - reproducible, not secret

    def script(self, steps: int) -> Script:
        """Return a script of that many steps, and a few that set up what they work on."""
        lines = [*SETUP, *(self._blockdev_add(node) for node in self._some(NODES[:5], 3))]
        lines += [self._device_add(device) for device in DEVICES]
        makers, weights = zip(*_MAKERS.items(), strict=True)
        for maker in self._rng.choices(makers, weights, k=steps):
            lines.append(maker(self))
        return Script(IMAGES, tuple(lines))

    def _pick(self, *choices: Any) -> Any:
        return self._rng.choice(choices)

    def _some(self, pool: tuple[str, ...], count: int) -> list[str]:
        return self._rng.sample(pool, count)

    def _maybe(self, **members: Any) -> dict[str, Any]:
        """Return some of the members, each with one of its values."""
        return {
            name: self._rng.choice(values)
            for name, values in members.items()
            if self._rng.random() < 0.4
        }

    def _node(self) -> str:
        return str(self._pick(*NODES, *NODES, *DEVICES, "nope"))

    def _bitmap(self) -> dict[str, Any]:
        return {"node": self._node(), "name": self._pick(*BITMAPS)}

    # Nodes and devices

    def _blockdev_add(self, node: str | None = None) -> str:
        node = node or self._pick(*NODES)
        if node == "n":
            return command(
                "blockdev-add",
                driver="null-co",
                node_name="n",
                size=SIZE,
                **self._maybe(read_zeroes=[True], read_only=[True]),
            )
        name = next(file for file in FILES if file.startswith(node))
        fmt = "raw" if name.endswith(".raw") else "qcow2"
        options = {
            "driver": fmt,
            "node_name": node,
            "file": {"driver": "file", "filename": name, "node-name": f"{node}-file"},
            **self._maybe(
                read_only=[False, False, True], discard=["unmap"], detect_zeroes=["on", "unmap"]
            ),
        }
        return command("blockdev-add", **options)

    def _device_add(self, device: str | None = None) -> str:
        return command(
            "device_add",
            driver="scsi-hd",
            bus="scsi0.0",
            id=device or self._pick(*DEVICES),
            drive=self._node(),
            **self._maybe(share_rw=[True], write_cache=["on", "off"]),
        )

    def _device_del(self) -> str:
        return command("device_del", id=self._pick(*DEVICES))

    def _blockdev_del(self) -> str:
        return command("blockdev-del", node_name=self._node())

    def _snapshot_node(self) -> str:
        return command("blockdev-snapshot", node=self._node(), overlay=self._node())

    def _snapshot_sync(self) -> str:
        number = self._rng.randrange(4)
        return command(
            "blockdev-snapshot-sync",
            node_name=self._node(),
            snapshot_file=f"new{number}.qcow2",
            snapshot_node_name=f"new{number}",
            **self._maybe(format=["qcow2", "raw"]),
        )

    def _resize(self) -> str:
        size = self._pick(0, 512, 1000, SIZE // 2, SIZE, 2 * SIZE, -1)
        return command("block_resize", node_name=self._node(), size=size)

    def _internal(self) -> str:
        verb = self._pick(
            "blockdev-snapshot-internal-sync", "blockdev-snapshot-delete-internal-sync"
        )
        return command(verb, device=self._node(), name=self._pick(*SNAPSHOTS))

    def _reopen(self) -> str:
        node = self._pick("a", "b", "over")
        options = {
            "driver": "qcow2",
            "node-name": node,
            "file": f"{node}-file",
            **{
                k.replace("_", "-"): v
                for k, v in self._maybe(
                    read_only=[True, False], discard=["unmap"], detect_zeroes=["on"]
                ).items()
            },
        }
        return command("blockdev-reopen", options=[options])

    def _io(self) -> str:
        """Let the guest write, or read, through its device."""
        offset = self._rng.randrange(0, SIZE, 64 * KIB) // (4 * KIB) * 4 * KIB
        length = self._pick(4 * KIB, 64 * KIB, 100 * KIB)
        verb = self._pick(
            f"write -P {self._rng.randrange(1, 255)} {offset} {length}",
            f"write -P {self._rng.randrange(1, 255)} {offset} {length}",
            f"write -z {offset} {length}",
            f"write -z -u {offset} {length}",
            f"discard {offset} {length}",
            f"read {offset} {length}",
            "flush",
        )
        line = f'qemu-io -d /machine/peripheral/{self._pick(*DEVICES)} "{verb}"'
        return command("human-monitor-command", command_line=line)

    # Bitmaps

    def _bitmap_add(self) -> dict[str, Any]:
        return {
            **self._bitmap(),
            **self._maybe(
                granularity=[4096, 65536, 512, 1000],
                persistent=[True, True, False],
                disabled=[True],
            ),
        }

    def _bitmap_verb(self) -> tuple[str, dict[str, Any]]:
        verb = self._pick(
            "remove", "clear", "clear", "enable", "disable", "merge", "merge", "add", "add", "add"
        )
        arguments = self._bitmap()
        if verb == "add":
            arguments = self._bitmap_add()
        elif verb == "merge":
            sources = [self._pick(*BITMAPS, self._bitmap()) for _ in range(self._pick(1, 1, 2))]
            arguments = {"node": arguments["node"], "target": arguments["name"], "bitmaps": sources}
        return f"block-dirty-bitmap-{verb}", arguments

    def _bitmap_command(self) -> str:
        name, arguments = self._bitmap_verb()
        return command(name, **arguments)

    # Jobs

    def _job(self, job: str | None = None) -> dict[str, Any]:
        job = job or self._pick(*JOBS)
        options = {
            "job-id": job,
            **{
                k.replace("_", "-"): v
                for k, v in self._maybe(auto_finalize=[False], auto_dismiss=[False]).items()
            },
        }
        if job.startswith(SLOW):
            options |= {"speed": 1}
        return options

    def _backup(self) -> tuple[str, dict[str, Any]]:
        sync = self._pick("full", "full", "top", "none", "incremental", "incremental", "bitmap")
        arguments = {"device": self._node(), "target": self._node(), "sync": sync, **self._job()}
        if sync in ("incremental", "bitmap") or self._rng.random() < 0.15:
            arguments["bitmap"] = self._pick(*BITMAPS)
        if sync == "bitmap" or self._rng.random() < 0.1:
            arguments["bitmap-mode"] = self._pick("on-success", "never", "always")
        return "blockdev-backup", arguments

    def _backup_command(self) -> str:
        name, arguments = self._backup()
        return command(name, **arguments)

    def _job_verb(self) -> str:
        verb = self._pick(
            "job-cancel",
            "job-pause",
            "job-resume",
            "job-finalize",
            "job-dismiss",
            "job-complete",
            "block-job-cancel",
            "block-job-set-speed",
        )
        if verb == "block-job-set-speed":
            return command(verb, device=SLOW + "0", speed=1)
        old = verb.startswith("block-job")
        return command(verb, **{"device" if old else "id": self._pick(*JOBS)})

    # Transactions, exports, and what is no command

    def _transaction(self) -> str:
        actions = [self._action() for _ in range(self._pick(1, 2, 2, 3))]
        properties = self._maybe(
            properties=[{"completion-mode": "grouped"}, {"completion-mode": "individual"}]
        )
        return command("transaction", actions=actions, **properties)

    def _action(self) -> dict[str, Any]:
        kind = self._pick("bitmap", "bitmap", "backup", "backup", "abort", "snapshot")
        if kind == "abort":
            return {"type": "abort", "data": {}}
        if kind == "snapshot":
            data = {"node": self._node(), "overlay": self._node()}
            return {"type": "blockdev-snapshot", "data": data}
        name, arguments = self._backup() if kind == "backup" else self._bitmap_verb()
        return {"type": name, "data": arguments}

    def _export(self) -> str:
        verb = self._pick("add", "add", "del", "server-add", "server-remove")
        name = self._pick("e0", "e1")
        if verb == "add":
            return command(
                "block-export-add",
                type="nbd",
                id=name,
                node_name=self._node(),
                **self._maybe(writable=[True], name=["x", "y"]),
            )
        if verb == "del":
            return command("block-export-del", id=name, **self._maybe(mode=["hard", "safe"]))
        if verb == "server-add":
            return command("nbd-server-add", device=self._node(), **self._maybe(name=["x", "y"]))
        return command("nbd-server-remove", name=self._pick("x", "y", *NODES))

    def _object(self) -> str:
        if self._rng.random() < 0.5:
            return command("object-del", id=self._pick(*GROUPS))
        return command("object-add", qom_type="throttle-group", id=self._pick(*GROUPS))

    def _malformed(self) -> str:
        return str(self._pick(*MALFORMED))

    def _wrong_type(self) -> str:
        """Return a command with one argument replaced or left out."""
        message = json.loads(
            self._pick(
                self._bitmap_command(), self._backup_command(), self._blockdev_add(), self._resize()
            )
        )
        arguments = message["arguments"]
        name = self._pick(*arguments)
        value = self._pick(None, 1, -1, "x", [], {}, True, 2**63, 1.5)
        if value is None:
            del arguments[name]
        else:
            arguments[name] = value
        return encode_text(message)


_MAKERS: dict[Callable[[Generator], str], int] = {
    getattr(Generator, f"_{name}"): weight
    for name, weight in {
        "blockdev_add": 8,
        "blockdev_del": 4,
        "device_add": 4,
        "device_del": 2,
        "snapshot_node": 3,
        "snapshot_sync": 3,
        "resize": 2,
        "internal": 2,
        "reopen": 3,
        "io": 20,
        "bitmap_command": 16,
        "backup_command": 12,
        "job_verb": 10,
        "transaction": 10,
        "export": 5,
        "object": 2,
        "malformed": 2,
        "wrong_type": 4,
    }.items()
}
"""How often each kind of step comes, in relation to the others."""
