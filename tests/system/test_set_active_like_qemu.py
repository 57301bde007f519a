"""Random commands on nodes that are active or not, to blkxact and to QEMU 10.0.

Left out is what docs/differences-from-qemu.md lists: what fails changes nothing here; all nodes are
all nodes; and what makes QEMU fail an assertion.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from blkxact.errors import QmpError
from tests.emulator import MIB, Emulator

Json = dict[str, Any]
IMAGES = ("a", "b", "c")
FILTERS = {"raw": "r", "copy-on-read": "k", "throttle": "t"}
NAMES = (*IMAGES, *FILTERS.values(), *(f"{name}f" for name in IMAGES), "nothing")
STEPS = 120


class Qemu:
    """A real QEMU 10.0 that is asked one command after the other."""

    def __init__(self, program: Path, directory: Path) -> None:
        words = ["-machine", "none", "-nodefaults", "-display", "none", "-S", "-qmp", "stdio"]
        pipe = subprocess.PIPE
        self._process = subprocess.Popen([program, *words], cwd=directory, stdin=pipe, stdout=pipe)
        assert self._process.stdout is not None
        self._process.stdout.readline()
        self.execute("qmp_capabilities", {})

    def execute(self, command: str, members: Json) -> Any:
        """Return what a command returns, or the text of its error."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        line = json.dumps({"execute": command, "arguments": members})
        self._process.stdin.write(line.encode() + b"\n")
        self._process.stdin.flush()
        while "event" in (reply := json.loads(self._process.stdout.readline())):
            pass
        return reply["return"] if "return" in reply else reply["error"]["desc"]

    def close(self) -> None:
        """End it."""
        self._process.kill()
        self._process.communicate()


@pytest.fixture
def qemu(image_dir: Path) -> Iterator[Qemu]:
    directory = Path(os.environ["BLKXACT_QEMU10"]) / "bin"
    for name in IMAGES:
        words = ["create", "-q", "-f", "qcow2", f"{name}.qcow2", str(MIB)]
        subprocess.run([directory / "qemu-img", *words], cwd=image_dir, check=True)
    started = Qemu(directory / "qemu-system-x86_64", image_dir)
    yield started
    started.close()


@pytest.fixture
async def emulator() -> AsyncIterator[Emulator]:
    emulator = Emulator()
    emulator.emulate("10.0")
    for name in IMAGES:
        await emulator.create(f"{name}.qcow2", size=MIB)
    yield emulator
    await emulator.layer.shutdown()


async def ask(emulator: Emulator, command: str, members: Json) -> Any:
    try:
        return await emulator.execute_wire(command, members)
    except QmpError as error:
        return error.desc


def draw(rng: random.Random) -> tuple[str, Json]:
    """Return a command."""
    name = rng.choice(NAMES)
    kind = rng.choice(["active"] * 4 + ["image"] * 2 + ["filter", "del", "export", "size"])
    state = rng.choice([{}, {}, {"active": False}, {"active": True}])
    match kind:
        case "active":
            return "blockdev-set-active", {"node-name": name, "active": rng.random() < 0.5}
        case "image":
            name = rng.choice(IMAGES)
            file = {"driver": "file", "filename": f"{name}.qcow2", "node-name": f"{name}f"}
            node = {"driver": "qcow2", "node-name": name, "file": file, **state}
            others = [other for other in IMAGES if other != name]
            node |= rng.choice([{}, {}, {"backing": rng.choice(others)}, {"read-only": True}])
            return "blockdev-add", node
        case "filter":
            driver = rng.choice(list(FILTERS))
            below = rng.choice((*IMAGES, "r", "t"))
            node = {"driver": driver, "node-name": FILTERS[driver], "file": below, **state}
            if driver == "throttle":
                node["throttle-group"] = "g"
            return "blockdev-add", node
        case "export":
            export: Json = {"type": "nbd", "id": f"e-{name}", "node-name": name}
            export |= rng.choice([{}, {"writable": True}])
            return "block-export-add", export | {"allow-inactive": rng.random() < 0.8}
        case "size":
            return "block_resize", {"node-name": name, "size": MIB}
    return "blockdev-del", {"node-name": name}


def shown(nodes: list[Json], graph: Json) -> Any:
    """Return the states of the nodes, and who needs what of whom."""
    states = {node["node-name"]: (node["active"], node["ro"]) for node in nodes}
    names = {node["id"]: node["name"] for node in graph["nodes"]}
    edges = [
        (
            names[edge["parent"]],
            names[edge["child"]],
            sorted(edge["perm"]),
            sorted(edge["shared-perm"]),
        )
        for edge in graph["edges"]
    ]
    return states, sorted(edges)


def server(path: Path) -> Json:
    return {"addr": {"type": "unix", "data": {"path": str(path)}}}


QUERIES: list[tuple[str, Json]] = [
    ("query-named-block-nodes", {"flat": True}),
    ("x-debug-query-block-graph", {}),
]
ALL_ACTIVE = [("blockdev-set-active", {"node-name": name, "active": True}) for name in NAMES]


@pytest.mark.qemu10
@pytest.mark.parametrize("seed", range(5))
async def test_random_commands_have_the_same_effect_as_in_qemu(
    qemu: Qemu, emulator: Emulator, image_dir: Path, seed: int
) -> None:
    rng = random.Random(seed)
    group = {"qom-type": "throttle-group", "id": "g"}
    assert await ask(emulator, "object-add", group) == qemu.execute("object-add", group)
    await emulator.execute_wire("nbd-server-start", server(image_dir / "ours"))
    qemu.execute("nbd-server-start", server(image_dir / "theirs"))
    done: list[Any] = []
    for _ in range(STEPS):
        command, members = draw(rng)
        theirs = qemu.execute(command, members)
        done.append((command, members, theirs))
        assert await ask(emulator, command, members) == theirs, done
        if theirs != {} and command in {"blockdev-set-active", "block-export-add"}:
            for each in ALL_ACTIVE:  # QEMU may have done a part of it
                assert await ask(emulator, *each) == qemu.execute(*each), done
        answers = [qemu.execute(*query) for query in QUERIES]
        ours = [await ask(emulator, *query) for query in QUERIES]
        assert shown(*ours) == shown(*answers), done
