"""An action cannot be prepared: everything the others prepared is taken back.

A transaction with one action of every kind, each on a disk of its own, is spoilt at every position
by a bad action of every kind. After each the daemon must show what it showed before: graph,
bitmaps to the last bit, jobs, transactions, open files. At the end the same actions succeed.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from .harness import Json, action, say
from .images import make_image
from .scene import Disk, Scene, digest, qcow2

NODE = {"node": "d0"}
NOWHERE = {"device": "nowhere", "sync": "full", "job_id": "bad"}

BAD: dict[str, tuple[Json, str]] = {
    "abort": (action("abort"), "Transaction aborted using Abort action"),
    "add": (
        action("block-dirty-bitmap-add", **NODE, name="b0"),
        "Bitmap already exists: b0",
    ),
    "remove": (
        action("block-dirty-bitmap-remove", **NODE, name="none"),
        "Dirty bitmap 'none' not found",
    ),
    "clear": (
        action("block-dirty-bitmap-clear", node="nowhere", name="b0"),
        "Node 'nowhere' not found",
    ),
    "enable": (
        action("block-dirty-bitmap-enable", **NODE, name="none"),
        "Dirty bitmap 'none' not found",
    ),
    "disable": (
        action("block-dirty-bitmap-disable", **NODE, name="none"),
        "Dirty bitmap 'none' not found",
    ),
    "merge": (  # half of it can be done
        action("block-dirty-bitmap-merge", **NODE, target="b0", bitmaps=["extra", "none"]),
        "Dirty bitmap 'none' not found",
    ),
    "drive-backup": (
        action("drive-backup", **NOWHERE, target="/nowhere/target", format="qcow2"),
        "Cannot find device='nowhere' nor node-name='nowhere'",
    ),
    "drive-backup of no bitmap": (  # the target has been made and opened by then
        action(
            "drive-backup", device="d0", job_id="bad", sync="incremental", bitmap="none",
            target="DIRECTORY/bad.qcow2", format="qcow2",
        ),
        "Bitmap 'none' could not be found",
    ),
    "blockdev-backup": (  # the bitmap is frozen by then
        action(
            "blockdev-backup", device="d0", job_id="bad", sync="incremental", bitmap="b0",
            target="small",
        ),
        "Source and target image have different sizes",
    ),
    "blockdev-backup of a taken id": (  # the filter has been inserted by then
        action(
            "blockdev-backup", device="d0", job_id="/bad/", sync="incremental", bitmap="b0",
            target="spare",
        ),
        "Invalid job ID '/bad/'",
    ),
    "blockdev-snapshot": (
        action("blockdev-snapshot", **NODE, overlay="nowhere"),
        "Cannot find device='nowhere' nor node-name='nowhere'",
    ),
    "blockdev-snapshot of itself": (
        action("blockdev-snapshot", **NODE, overlay="d0"),
        "The overlay is already in use",
    ),
    "blockdev-snapshot-sync": (
        action(
            "blockdev-snapshot-sync", node_name="d0", snapshot_file="/nowhere/overlay",
            snapshot_node_name="bad",
        ),
        "Could not create '/nowhere/overlay': No such file or directory",
    ),
}  # fmt: skip
"""One bad action of each kind (and of some kinds one that fails late), with what it is told."""


class Stage:
    """Disks and targets for one good action of each kind."""

    def __init__(self, scene: Scene) -> None:
        self.scene = scene
        self.disks: dict[str, Disk] = {}

    async def build(self) -> None:
        scene = self.scene
        for number in range(6):
            disk = await scene.disk(f"d{number}")
            self.disks[disk.name] = disk
            for name in ("b0", "extra"):
                await scene.client.run("block-dirty-bitmap-add", node=disk.name, name=name)
            await disk.write(number, 10, pattern=number + 1)
            await scene.client.run("block-dirty-bitmap-clear", node=disk.name, name="extra")
            await disk.write(20 + number, pattern=number + 1)
        small = await make_image(scene.directory / "small.qcow2", size=1 << 20)
        await scene.add_node("small", qcow2(small))
        for name in ("spare", "target"):
            path = await make_image(scene.directory / f"{name}.qcow2")
            await scene.add_node(name, qcow2(path))
        overlay = await make_image(scene.directory / "overlay.qcow2")
        await scene.add_node("overlay", {**qcow2(overlay), "backing": None})

    def good(self) -> list[Json]:
        """Return the actions that can be done, one of each kind but ``abort``."""
        made = self.scene.directory / "made.qcow2"
        snapshot = self.scene.directory / "snapshot.qcow2"
        return [
            action("block-dirty-bitmap-add", node="d1", name="new"),
            action("block-dirty-bitmap-clear", node="d1", name="b0"),
            action("block-dirty-bitmap-merge", node="d1", target="b0", bitmaps=["extra"]),
            action("block-dirty-bitmap-disable", node="d1", name="extra"),
            action("block-dirty-bitmap-enable", node="d1", name="extra"),
            action("block-dirty-bitmap-remove", node="d5", name="extra"),
            action(
                "drive-backup", device="d2", job_id="drive", sync="incremental", bitmap="b0",
                target=str(made), format="qcow2",
            ),
            action(
                "blockdev-backup", device="d3", job_id="blockdev", sync="incremental",
                bitmap="b0", target="target",
            ),
            action("blockdev-snapshot", node="d4", overlay="overlay"),
            action(
                "blockdev-snapshot-sync", node_name="d5", snapshot_file=str(snapshot),
                snapshot_node_name="snap", format="qcow2",
            ),
        ]  # fmt: skip

    async def fingerprint(self) -> dict[str, Any]:
        """Return all that a client can see, and what is open."""
        run = self.scene.client.run
        nodes = await run("query-named-block-nodes", flat=True)
        bitmaps = {
            (node["node-name"], one["name"]): await run(
                "x-debug-block-dirty-bitmap-sha256", node=node["node-name"], name=one["name"]
            )
            for node in nodes
            for one in node.get("dirty-bitmaps", [])
        }
        blocks = await run("query-block")
        return {
            "nodes": {node["node-name"]: _steady(node) for node in nodes},
            "blocks": [_steady(block) for block in blocks],
            "bitmaps": bitmaps,
            "jobs": await run("query-jobs"),
            "transactions": await run("query-transactions"),
            "files": self.scene.daemon.files(),
        }


def _steady(info: Any) -> Any:
    """Return a description without the sizes of files, which a prepared write may change."""
    if isinstance(info, dict):
        return {name: _steady(value) for name, value in info.items() if name != "actual-size"}
    return [_steady(one) for one in info] if isinstance(info, list) else info


def _in(directory: Path, bad: Json) -> Json:
    target = bad["data"].get("target", "")
    if not target.startswith("DIRECTORY"):
        return bad
    data = bad["data"] | {"target": target.replace("DIRECTORY", str(directory))}
    return {**bad, "data": data}


@pytest.mark.parametrize(
    ("mode", "kinds"),
    [("individual", list(BAD)), ("deferred", ["abort", "blockdev-backup of a taken id"])],
)
async def test_bad_action_anywhere_changes_nothing(
    scene: Scene, mode: str, kinds: list[str]
) -> None:
    stage = Stage(scene)
    await stage.build()
    good = stage.good()
    before = await stage.fingerprint()
    for name in kinds:
        template, error = BAD[name]
        bad = _in(scene.directory, template)
        say(f"{mode}: {name} is bad, at {len(good) + 1} positions")
        for position in range(len(good) + 1):
            scene.client.mark()
            actions = [*good[:position], bad, *good[position:]]
            told = await scene.client.refused_transaction(*actions, mode=mode, txn="bad")
            assert told == error, (name, position)
            assert await stage.fingerprint() == before, (name, position)
            heard = set(scene.client.names()) - {"JOB_STATUS_CHANGE", "BLOCK_JOB_CANCELLED"}
            assert heard == set(), (name, position)
            for job in ("drive", "blockdev", "bad"):
                assert scene.client.statuses(job)[-1:] in ([], ["null"]), (name, position)
    await finish(stage, good, mode)


async def finish(stage: Stage, good: list[Json], mode: str) -> None:
    """Do the good actions alone, and check each; then take the snapshots off again."""
    scene, client = stage.scene, stage.scene.client
    say("without the bad action all of them succeed")
    client.mark()
    await client.transaction(*good, mode=mode, txn="good")
    done = await client.hear("TRANSACTION_COMPLETED", id="good")
    assert done["status"] == "completed"
    disk = stage.disks["d1"]
    assert set(await disk.bitmaps()) == {"b0", "extra", "new"}
    await disk.assert_dirty({21}, "b0")
    await disk.assert_dirty({21}, "extra")
    await disk.assert_dirty(set(), "new")
    for name in ("d2", "d3"):
        await stage.disks[name].assert_dirty(set(), "b0")
    assert set(await stage.disks["d5"].bitmaps()) == {"b0"}
    nodes = {node["node-name"]: node for node in await client.run("query-named-block-nodes")}
    for below, above in (("d4", "overlay"), ("d5", "snap")):
        assert nodes[above]["backing_file"] == str(stage.disks[below].path)
        assert nodes[below]["ro"]
    await scene.assert_settled()


async def test_grouped_is_refused_for_actions_without_a_job(scene: Scene) -> None:
    """As in QEMU; and what was prepared before is taken back here too."""
    stage = Stage(scene)
    await stage.build()
    before = await stage.fingerprint()
    for good in stage.good():
        if good["type"].endswith("backup"):
            continue
        told = await scene.client.refused_transaction(stage.good()[6], good, mode="grouped")
        assert told == (
            f"Action '{good['type']}' does not support Transaction property "
            "completion-mode = grouped"
        )
        assert await stage.fingerprint() == before


async def test_image_made_for_a_refused_transaction_is_empty_and_closed(scene: Scene) -> None:
    """As in QEMU it stays behind; nobody holds it, and the next transaction may have the name."""
    (disk,) = await scene.busy_disks(1)
    target = scene.directory / "inc.qcow2"
    backup = disk.incremental(target, "job", mode="absolute-paths")
    told = await scene.client.refused_transaction(backup, action("abort"), txn="bad")
    assert told == "Transaction aborted using Abort action"
    assert scene.client.names("BLOCK_JOB_COMPLETED", "TRANSACTION_COMPLETED") == []
    assert str(target) not in scene.daemon.files()
    await disk.assert_dirty({1, 20, 21})
    await scene.client.transaction(backup, txn="good")
    done = await scene.client.hear("TRANSACTION_COMPLETED", id="good")
    assert done["status"] == "completed"
    await disk.assert_dirty(set())


async def test_bitmap_that_was_cleared_and_merged_comes_back_bit_by_bit(scene: Scene) -> None:
    """Several actions on one bitmap are undone in reverse order."""
    (disk,) = await scene.busy_disks(1)
    await scene.client.run("block-dirty-bitmap-add", node=disk.name, name="other")
    await disk.write(60, pattern=99)
    steps = [
        action("block-dirty-bitmap-clear", node=disk.name, name="b0"),
        action("block-dirty-bitmap-merge", node=disk.name, target="b0", bitmaps=["other"]),
        action("block-dirty-bitmap-disable", node=disk.name, name="b0"),
        action("block-dirty-bitmap-clear", node=disk.name, name="b0"),
        action("block-dirty-bitmap-remove", node=disk.name, name="b0"),
    ]
    for count in range(len(steps) + 1):
        told = await scene.client.refused_transaction(*steps[:count], action("abort"))
        assert told == "Transaction aborted using Abort action"
        await disk.assert_dirty({1, 20, 21, 60})
        await disk.assert_dirty({60}, "other")
    assert digest({60}) != digest({1, 20, 21, 60})
