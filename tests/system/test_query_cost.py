"""What queries of long chains cost: work that grows as the reply, with turns for others."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from blkxact.block.node_filename import Filenames
from blkxact.blockdev import info
from blkxact.commands import COMMANDS
from tests.emulator import Emulator

LENGTH = 60


async def _query(emulator: Emulator, name: str, **arguments: Any) -> list[dict[str, Any]]:
    command = COMMANDS[name]
    result: list[dict[str, Any]] = await command.handler(emulator.layer, command.model(**arguments))
    return result


async def test_named_nodes_of_a_chain_are_each_described_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    emulator = Emulator()
    await emulator.disk("base")
    for number in range(LENGTH):
        await emulator.execute(
            "blockdev-snapshot-sync",
            **{"node-name": "base" if not number else f"s{number - 1}"},
            **{"snapshot-file": f"/s{number}", "snapshot-node-name": f"s{number}"},
        )
    described: list[str] = []
    own_info = info._own_info

    def count(node: Any, filename: str) -> Any:
        described.append(node.node_name)
        return own_info(node, filename)

    named: list[str] = []
    find_name = Filenames._find_name

    def count_name(self: Filenames, node: Any) -> str:
        named.append(node.node_name)
        return find_name(self, node)

    monkeypatch.setattr(info, "_own_info", count)
    monkeypatch.setattr(Filenames, "_find_name", count_name)
    nodes = await _query(emulator, "query-named-block-nodes")
    assert len(described) == len(set(described)) == len(nodes)
    assert len(named) == len(set(named)) == len(nodes)
    top = next(node for node in nodes if node["node-name"] == f"s{LENGTH - 1}")
    assert top["backing_file_depth"] == LENGTH
    depth, image = 0, top["image"]
    while "backing-image" in image:
        depth, image = depth + 1, image["backing-image"]
    assert depth == LENGTH
    await emulator.layer.shutdown()


async def test_stats_of_nodes_have_no_backing_files() -> None:
    emulator = Emulator()
    await emulator.disk("base")
    await emulator.execute(
        "blockdev-snapshot-sync",
        **{"node-name": "base", "snapshot-file": "/s", "snapshot-node-name": "s"},
    )
    nodes = await _query(emulator, "query-blockstats", query_nodes=True)
    assert {"base", "s"} <= {node["node-name"] for node in nodes}
    assert not any("backing" in node for node in nodes)
    await emulator.layer.shutdown()


async def test_query_of_many_nodes_gives_others_turns() -> None:
    emulator = Emulator()
    for number in range(200):
        await emulator.layer.blockdev.add({"driver": "null-co", "node-name": f"n{number}"})
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    task = asyncio.create_task(others())
    nodes = await _query(emulator, "query-named-block-nodes")
    task.cancel()
    assert len(nodes) >= 200
    assert turns >= 3
    await emulator.layer.shutdown()
