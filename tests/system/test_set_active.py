"""blockdev-set-active: an image is another process's for a while. Texts are those of QEMU 10.0."""

from __future__ import annotations

import errno
from collections.abc import AsyncIterator
from typing import Any

import pytest

from blkxact.errors import QmpError
from blkxact.testing.faults import Fault
from tests.emulator import MIB, Emulator

CLUSTER = 65536


def made(storage: Any = None, release: str = "10.0") -> Emulator:
    emulator = Emulator(storage)
    emulator.emulate(release)
    return emulator


@pytest.fixture
async def emulator() -> AsyncIterator[Emulator]:
    """Yield an emulator with a qcow2 node ``a`` over ``a-file``."""
    emulator = made()
    await emulator.create_disk("a", MIB)
    await add(emulator, "a")
    yield emulator
    await emulator.layer.shutdown()


@pytest.fixture
async def other(emulator: Emulator) -> AsyncIterator[Emulator]:
    """Yield another process, which sees the same files."""
    other = made(emulator.storage)
    yield other
    await other.layer.shutdown()


async def add(emulator: Emulator, name: str, **options: Any) -> None:
    file = {"driver": "file", "filename": f"/{name}.qcow2", "node-name": f"{name}-file"}
    await emulator.execute("blockdev-add", driver="qcow2", node_name=name, file=file, **options)


async def set_active(emulator: Emulator, active: bool, name: str | None = "a") -> None:
    where = {} if name is None else {"node_name": name}
    await emulator.execute("blockdev-set-active", active=active, **where)


async def activity(emulator: Emulator) -> dict[str, bool]:
    nodes = await emulator.execute("query-named-block-nodes", flat=True)
    return {node["node-name"]: node["active"] for node in nodes}


async def add_bitmap(emulator: Emulator, name: str, *, persistent: bool, node: str = "a") -> None:
    await emulator.execute(
        "block-dirty-bitmap-add", node=node, name=name, persistent=persistent, granularity=CLUSTER
    )


async def test_another_process_has_the_image_meanwhile(emulator: Emulator, other: Emulator) -> None:
    guest = emulator.plug("a")
    await add_bitmap(emulator, "kept", persistent=True)
    await add_bitmap(emulator, "mine", persistent=False)
    await guest.pwrite(0, b"1" * CLUSTER)
    with pytest.raises(QmpError, match=r'^Failed to get "write" lock$'):
        await add(other, "a")

    await set_active(emulator, active=False)
    assert await activity(emulator) == {"a": False, "a-file": False}
    assert list(emulator.bitmaps("a")) == ["mine"]
    assert await guest.pread(0, 1) == b"1"
    with pytest.raises(PermissionError):
        await guest.pwrite(0, b"2")

    await add(other, "a")
    assert other.bitmaps("a")["kept"]["count"] == CLUSTER
    theirs = other.plug("a")
    await theirs.pwrite(2 * CLUSTER, b"3" * CLUSTER)
    await add_bitmap(other, "new", persistent=True)
    await theirs.pwrite(4 * CLUSTER, b"4" * CLUSTER)
    with pytest.raises(QmpError, match=r'^Failed to get "write" lock$'):
        await set_active(emulator, active=True)
    assert (await activity(emulator))["a"] is False
    await set_active(other, active=False)

    await set_active(emulator, active=True)
    assert await activity(emulator) == {"a": True, "a-file": True}
    assert await guest.pread(2 * CLUSTER, 1) == b"3"
    assert {name: one["count"] for name, one in emulator.bitmaps("a").items()} == {
        "mine": CLUSTER,
        "kept": 3 * CLUSTER,
        "new": CLUSTER,
    }
    await guest.pwrite(6 * CLUSTER, b"5" * CLUSTER)
    assert emulator.bitmaps("a")["kept"]["count"] == 4 * CLUSTER
    assert emulator.bitmaps("a")["new"]["count"] == 2 * CLUSTER


async def test_length_that_another_process_has_changed_is_taken_over(
    emulator: Emulator, other: Emulator
) -> None:
    await add_bitmap(emulator, "mine", persistent=False)
    await set_active(emulator, active=False)
    await add(other, "a")
    await other.execute("block_resize", node_name="a", size=2 * MIB)
    await set_active(other, active=False)
    await set_active(emulator, active=True)
    assert emulator.layer.find_node("a").length == 2 * MIB
    assert emulator.layer.find_node("a").bitmaps["mine"].size == 2 * MIB


async def test_node_below_an_active_one_stays_active(emulator: Emulator) -> None:
    with pytest.raises(QmpError, match=r"^Node has active parent node$"):
        await set_active(emulator, active=False, name="a-file")
    with pytest.raises(QmpError, match=r"^Failed to find node with node-name='x'$"):
        await set_active(emulator, active=False, name="x")
    await set_active(emulator, active=False)
    await set_active(emulator, active=False)
    await set_active(emulator, active=True, name="a-file")
    assert await activity(emulator) == {"a": False, "a-file": True}


async def test_node_that_another_active_one_needs_stays_active(emulator: Emulator) -> None:
    for name in ("r", "s"):
        await emulator.execute("blockdev-add", driver="raw", node_name=name, file="a")
    await set_active(emulator, active=False, name="r")
    states = await activity(emulator)
    assert states == {"a": True, "a-file": True, "r": False, "s": True}
    await set_active(emulator, active=False, name="s")
    assert set((await activity(emulator)).values()) == {False}


async def test_inactive_node_is_refused_where_an_active_one_is_needed(emulator: Emulator) -> None:
    await set_active(emulator, active=False)
    raw = {"driver": "raw", "node_name": "r", "file": "a"}
    with pytest.raises(QmpError, match=r"^Inactive 'a' can't be a file child of active 'r'$"):
        await emulator.execute("blockdev-add", **raw)
    with pytest.raises(QmpError, match=r"^Permission 'resize' unavailable on inactive node$"):
        await emulator.execute("block_resize", node_name="a", size=2 * MIB)
    with pytest.raises(QmpError, match=r"^Block format 'qcow2' used by device 'a' does not sup"):
        await emulator.execute("blockdev-snapshot-internal-sync", device="a", name="s")
    with pytest.raises(QmpError, match=r"^Could not create node: Inactive 'a' can't be a file "):
        await emulator.execute("block-stream", device="a", job_id="j")
    await emulator.execute("blockdev-add", **raw, active=False)
    await set_active(emulator, active=True, name="r")
    assert set((await activity(emulator)).values()) == {True}


async def test_what_is_added_inactive_writes_nothing_and_has_no_bitmaps(
    emulator: Emulator, other: Emulator
) -> None:
    await add_bitmap(emulator, "kept", persistent=True)
    await add(other, "a", active=False)
    assert await activity(other) == {"a": False, "a-file": True}
    assert other.bitmaps("a") == {}
    await set_active(emulator, active=False)
    await set_active(other, active=True)
    assert list(other.bitmaps("a")) == ["kept"]


async def test_what_is_defined_in_an_inactive_node_is_inactive_too_but_for_its_file(
    emulator: Emulator,
) -> None:
    await emulator.create_disk("b", MIB)
    backing = {
        "driver": "qcow2",
        "node-name": "a2",
        "file": {"driver": "file", "filename": "/a.qcow2"},
    }
    await set_active(emulator, active=False)
    await add(emulator, "b", active=False, backing=backing)
    states = await activity(emulator)
    file = emulator.layer.find_node("a2").children["file"].node.node_name
    assert (states["b"], states["b-file"], states["a2"], states[file]) == (
        False,
        True,
        False,
        False,
    )
    await set_active(emulator, active=False, name=None)
    assert (await activity(emulator))["b-file"] is True


async def test_chain_is_inactive_from_top_to_bottom(emulator: Emulator) -> None:
    emulator.plug("a")
    await emulator.execute("blockdev-snapshot-sync", **_snapshot("a", "o"))
    await set_active(emulator, active=False, name=None)
    assert set((await activity(emulator)).values()) == {False}
    await emulator.execute("blockdev-snapshot-sync", **_snapshot("o", "p"))
    assert len(await activity(emulator)) == 6
    assert set((await activity(emulator)).values()) == {False}
    await set_active(emulator, active=True, name="p")
    assert set((await activity(emulator)).values()) == {True}


@pytest.mark.parametrize("name", ["a", None])
async def test_export_that_may_not_be_inactive_keeps_its_node_active(
    emulator: Emulator, name: str | None, tmp_path: Any
) -> None:
    await add_bitmap(emulator, "kept", persistent=True)
    await serve(emulator, tmp_path)
    await emulator.execute("block-export-add", type="nbd", id="e", node_name="a", writable=True)
    what = "node" if name else "all nodes"
    with pytest.raises(QmpError, match=f"^Failed to inactivate {what}: Operation not permitted$"):
        await set_active(emulator, active=False, name=name)
    assert set((await activity(emulator)).values()) == {True}
    assert list(emulator.bitmaps("a")) == ["kept"]


async def serve(emulator: Emulator, tmp_path: Any) -> None:
    path = {"type": "unix", "data": {"path": str(tmp_path / "nbd")}}
    await emulator.execute("nbd-server-start", addr=path)


async def test_export_activates_its_node_unless_it_may_be_inactive(
    emulator: Emulator, tmp_path: Any
) -> None:
    export = {"type": "nbd", "id": "e", "node_name": "a", "writable": True}
    await set_active(emulator, active=False)
    with pytest.raises(QmpError, match=r"^NBD server not running$"):
        await emulator.execute("block-export-add", **export)
    assert (await activity(emulator))["a"] is False
    await serve(emulator, tmp_path)
    await emulator.execute("block-export-add", **export, allow_inactive=True)
    assert (await activity(emulator))["a"] is False
    await set_active(emulator, active=True)
    await set_active(emulator, active=False)
    await emulator.execute("block-export-del", id="e")
    await emulator.execute("block-export-add", **export | {"id": "f", "name": "f"})
    assert (await activity(emulator))["a"] is True


async def test_bitmap_in_use_keeps_its_node_active(emulator: Emulator, tmp_path: Any) -> None:
    """QEMU 10.0 fails an assertion."""
    await add_bitmap(emulator, "kept", persistent=True)
    await emulator.execute("block-dirty-bitmap-disable", node="a", name="kept")
    await serve(emulator, tmp_path)
    options = {"allow_inactive": True, "bitmaps": ["kept"]}
    await emulator.execute("block-export-add", type="nbd", id="e", node_name="a", **options)
    with pytest.raises(QmpError, match=r"^Failed to inactivate node: Bitmap 'kept' is currently "):
        await set_active(emulator, active=False)
    assert (await activity(emulator))["a"] is True


async def test_bitmap_of_a_name_that_the_image_has_keeps_its_node_inactive(
    emulator: Emulator,
) -> None:
    """QEMU 10.0 loses the node."""
    await add_bitmap(emulator, "kept", persistent=True)
    await set_active(emulator, active=False)
    await add_bitmap(emulator, "kept", persistent=False)
    await add_bitmap(emulator, "later", persistent=True)
    with pytest.raises(
        QmpError, match=r"^Could not reopen qcow2 layer: Bitmap already exists: kept$"
    ):
        await set_active(emulator, active=True)
    assert await activity(emulator) == {"a": False, "a-file": False}
    await emulator.execute("block-dirty-bitmap-remove", node="a", name="kept")
    await set_active(emulator, active=True)
    assert set(emulator.bitmaps("a")) == {"kept", "later"}
    assert emulator.bitmaps("a")["kept"].get("inconsistent") is None


@pytest.mark.parametrize("request_", ["storage.pwrite", "storage.pread"])
async def test_error_changes_nothing(emulator: Emulator, request_: str) -> None:
    await add_bitmap(emulator, "kept", persistent=True)
    guest = emulator.plug("a")
    await guest.pwrite(0, b"1" * CLUSTER)
    reads = request_ == "storage.pread"
    if reads:
        await set_active(emulator, active=False)
    emulator.storage.faults.add(Fault(request_, errno.EIO, times=None))
    with pytest.raises(QmpError, match=r"Input/output error$"):
        await set_active(emulator, active=reads)
    assert (await activity(emulator))["a"] is not reads
    emulator.storage.faults.clear()
    await set_active(emulator, active=True)
    await guest.pwrite(CLUSTER, b"2" * CLUSTER)
    assert emulator.bitmaps("a")["kept"]["count"] == 2 * CLUSTER
    assert not emulator.bitmaps("a")["kept"].get("inconsistent")


async def test_filter_that_writes_by_itself_writes_nothing_while_inactive(
    emulator: Emulator,
) -> None:
    await (emulator.plug("a")).pwrite(0, b"1" * CLUSTER)
    await emulator.create_disk("top", MIB)
    await add(emulator, "top", backing="a")
    await emulator.execute("blockdev-add", driver="copy-on-read", node_name="c", file="top")
    await set_active(emulator, active=False, name="c")
    await emulator.qemu_io("c", "read 0 64k")
    assert not await is_allocated(emulator, "top")
    await set_active(emulator, active=True, name="c")
    await emulator.qemu_io("c", "read 0 64k")
    assert await is_allocated(emulator, "top")


async def is_allocated(emulator: Emulator, node: str) -> bool:
    extents = await emulator.layer.find_node(node).block_status(0, CLUSTER)
    return extents[0].depth == 0


def _snapshot(node: str, name: str) -> dict[str, str]:
    path = f"/{name}.qcow2"
    return {"node_name": node, "snapshot_file": path, "snapshot_node_name": name}


async def test_reopen_cannot_change_whether_a_node_is_active(emulator: Emulator) -> None:
    """QEMU 10.0 takes it, and stores no bitmaps then."""
    node = {"driver": "qcow2", "node-name": "a", "file": "a-file"}
    with pytest.raises(QmpError, match=r"^Cannot change the option 'active'$"):
        await emulator.execute("blockdev-reopen", options=[node | {"active": False}])
    await set_active(emulator, active=False)
    await emulator.execute("blockdev-reopen", options=[node | {"read-only": True}])
    await emulator.execute("blockdev-reopen", options=[node | {"read-only": False}])
    assert (await activity(emulator))["a"] is False
    await set_active(emulator, active=True)
    await emulator.execute("blockdev-reopen", options=[node | {"active": True}])


async def test_human_monitor_shows_inactive_nodes(emulator: Emulator) -> None:
    await set_active(emulator, active=False)
    text = await emulator.hmp("info block -n")
    assert "a: /a.qcow2 (qcow2, inactive)" in text


async def test_older_releases_have_none_of_it(emulator: Emulator) -> None:
    old = made(release="9.2")
    names = {one["name"] for one in await old.execute("query-commands")}
    assert "blockdev-set-active" not in names
    with pytest.raises(QmpError, match=r"^Parameter 'active' is unexpected$"):
        await old.execute("blockdev-add", driver="null-co", node_name="n", active=True)
    export = {"type": "nbd", "id": "e", "node_name": "n", "allow_inactive": True}
    with pytest.raises(QmpError, match=r"^Parameter 'allow-inactive' is unexpected$"):
        await old.execute("block-export-add", **export)
    await old.layer.shutdown()


async def test_cont_activates_all_nodes(emulator: Emulator) -> None:
    await emulator.create_disk("b", MIB)
    await add(emulator, "b")
    await set_active(emulator, active=False, name=None)
    assert not any((await activity(emulator)).values())
    await emulator.execute("stop")
    await emulator.execute("cont")
    assert all((await activity(emulator)).values())


async def test_cont_that_cannot_activate_is_refused(emulator: Emulator, other: Emulator) -> None:
    await set_active(emulator, active=False)
    await emulator.execute("stop")
    await add(other, "a")
    with pytest.raises(QmpError, match="Failed to get"):
        await emulator.execute("cont")
    assert (await emulator.execute("query-status"))["status"] == "paused"
