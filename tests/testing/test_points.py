"""Named points: the table is complete, and a listener can fail and wait where the table says so."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

import pytest
from tests.emulator import KIB
from tests.one_backup import backup, backup_emulator

import blkxact
from blkxact.enums import BlkdebugEvent
from blkxact.errors import QmpError
from blkxact.runtime.points import POINTS, PointMisuseError, Points

_CALL = re.compile(
    r"(?:point: str = |points\.(?:hit|reach|begin),?|_reach|cuts|_shake_hands)\(?\s*"
    r'f?"([^"]+)"(?: if [^"]+ else "([^"]+)")?'
)


def names_in_the_code() -> set[str]:
    """Return the names of points in the sources; what is filled in is ``{}``."""
    sources = Path(blkxact.__file__).parent.rglob("*.py")
    found = [match for source in sources for match in _CALL.findall(source.read_text())]
    return {re.sub(r"\{.*?\}", "{}", name) for names in found for name in names if name}


def test_every_point_in_the_code_is_in_the_table_and_the_other_way_round():
    patterns = [
        name.replace(".", r"\.").replace("{}", "[a-z0-9_-]+") for name in names_in_the_code()
    ]
    assert [name for name in POINTS if not any(re.fullmatch(p, name) for p in patterns)] == []
    assert [p for p in patterns if not any(re.fullmatch(p, name) for name in POINTS)] == []


def test_every_event_of_blkdebug_is_a_point():
    assert {f"node.{event}" for event in BlkdebugEvent} <= POINTS.keys()


def test_points_are_silent_until_somebody_listens_and_after_it():
    points = Points()
    points.hit("job.commit", job=None)
    stop = points.listen("job.commit", lambda _name, _facts: None)
    assert points.listening
    stop()
    assert not points.listening


def test_a_point_that_does_not_exist_cannot_be_listened_to():
    with pytest.raises(KeyError):
        Points().listen("job.nonsense", lambda _name, _facts: None)


def test_a_failure_where_none_is_possible_is_the_listeners_bug():
    points = Points()

    def fail(_name, _facts):
        raise OSError(5, "no")

    points.listen("job.commit", fail)
    with pytest.raises(PointMisuseError, match=r"OSError is not possible at job\.commit"):
        points.hit("job.commit", job=None)


def test_waiting_where_nobody_can_wait_is_the_listeners_bug():
    async def wait(_name, _facts):
        pass

    points = Points()
    points.listen("job.commit", wait)
    with pytest.raises(PointMisuseError, match=r"nobody can wait at job\.commit"):
        points.hit("job.commit", job=None)


# A backup, as a whole emulator does it.


async def test_a_backup_passes_its_points_in_order():
    emulator = await backup_emulator()
    passed = []
    for name in POINTS:
        if name.split(".")[0] in ("transaction", "job", "bitmap"):
            emulator.layer.points.listen(name, lambda point, _facts: passed.append(point))
    await backup(emulator)
    await emulator.layer.close_unused_nodes()
    assert [name for name in passed if name != "job.step"] == [
        "transaction.prepare",
        "bitmap.freeze",
        "transaction.commit",
        "transaction.clean",
        "transaction.settled",
        "transaction.finish",
        "job.start",
        "job.before-flush",
        "job.ran",
        "job.prepare",
        "job.commit",
        "bitmap.abdicated",
        "job.clean",
        "bitmap.store",
        "job.conclude",
        "transaction.over",
    ]
    assert "job.step" in passed
    await emulator.layer.shutdown()


@pytest.mark.parametrize(
    "name", [name for name, point in POINTS.items() if name.startswith("job.") and point.fails]
)
async def test_a_backup_that_fails_anywhere_keeps_its_dirty_bits(name):
    emulator = await backup_emulator()
    bitmap = emulator.layer.graph.nodes["a"].bitmaps["b"]

    def fail(_name, _facts):
        raise OSError(5, "Input/output error")

    stop = emulator.layer.points.listen(name, fail)
    assert (await backup(emulator))["error"] == "Input/output error"
    assert (bitmap.count(), bitmap.successor) == (64 * KIB, None)
    stop()
    assert "error" not in await backup(emulator)
    assert bitmap.count() == 0
    await emulator.layer.shutdown()


@pytest.mark.parametrize("name", ["transaction.prepare", "bitmap.freeze", "command.execute"])
async def test_a_backup_that_cannot_start_changes_nothing(name):
    emulator = await backup_emulator()
    nodes = set(emulator.layer.graph.nodes)

    def fail(_name, _facts):
        raise QmpError("not now")

    emulator.layer.points.listen(name, fail)
    with pytest.raises(QmpError, match="not now"):
        await backup(emulator)
    assert set(emulator.layer.graph.nodes) == nodes
    assert emulator.layer.graph.nodes["a"].bitmaps["b"].successor is None
    assert not emulator.layer.jobs
    await emulator.layer.shutdown()


async def test_a_listener_can_hold_a_job_where_it_waits():
    emulator = await backup_emulator()
    there, go = asyncio.Event(), asyncio.Event()

    async def hold(_name, _facts):
        there.set()
        await go.wait()

    emulator.layer.points.listen("job.before-flush", hold)
    async with asyncio.timeout(20):
        running = asyncio.create_task(backup(emulator))
        await there.wait()
        assert emulator.layer.jobs["j"].remaining() == 0
        assert emulator.layer.graph.nodes["a"].bitmaps["b"].count() == 64 * KIB
        go.set()
        assert "error" not in await running
    await emulator.layer.shutdown()
