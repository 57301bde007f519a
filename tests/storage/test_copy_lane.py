"""Bulk copies into one file: in turn, and written back as they come."""

import asyncio
import threading

import pytest

from blkxact.storage import copy_lane, os_file

STEP = copy_lane.WRITEBACK_STEP
PIECE = os_file.COPY_PIECE


@pytest.fixture
async def files(storage, image_dir):
    source = await storage.create(str(image_dir / "source"))
    target = await storage.create(str(image_dir / "target"))
    await source.truncate(2 * STEP)
    yield source, target
    await source.close()
    await target.close()


class Held:
    """Stands in for a call that blocks its thread until it is let go."""

    def __init__(self):
        self.begun, self.go_on = threading.Event(), threading.Event()
        self.calls = []

    def __call__(self, *arguments):
        self.calls.append(arguments)
        self.begun.set()
        assert self.go_on.wait(20)


async def reached(event):
    assert await asyncio.to_thread(event.wait, 20)


async def test_copies_into_one_file_run_one_at_a_time(storage, files, monkeypatch):
    source, target = files
    running, most = [], []

    def copy(*_, **__):
        running.append(None)
        most.append(len(running))
        running.pop()

    monkeypatch.setattr(storage.workers.copier, "copy", copy)
    await asyncio.gather(*(target.copy_from(at * PIECE, source, 0, PIECE) for at in range(8)))
    assert most == [1] * 8


async def test_copies_into_two_files_do_not_wait_for_each_other(
    storage, files, image_dir, monkeypatch
):
    source, target = files
    other = await storage.create(str(image_dir / "other"))
    held, real = Held(), storage.workers.copier.copy
    monkeypatch.setattr(
        storage.workers.copier,
        "copy",
        lambda *args, **_: held(*args) if args[2] == target.fd else real(*args),
    )
    waiting = asyncio.create_task(target.copy_from(0, source, 0, PIECE))
    await reached(held.begun)
    await other.copy_from(0, source, 0, PIECE)
    assert not waiting.done()
    held.go_on.set()
    await waiting
    await other.close()


async def test_writeback_begins_while_the_copy_goes_on(files, monkeypatch):
    source, target = files
    held = Held()
    monkeypatch.setattr(copy_lane, "start_writeback", held)
    await target.copy_from(0, source, 0, STEP - PIECE)
    assert held.calls == []
    await target.copy_from(STEP - PIECE, source, 0, PIECE)
    await reached(held.begun)
    # It blocks, and neither copies nor flushes wait for it; nor does it pile up.
    await target.copy_from(0, source, 0, 2 * STEP)
    await target.flush()
    assert held.calls == [(target.fd,)]
    held.go_on.set()


async def test_file_that_no_flush_will_come_for_is_not_written_back(files, monkeypatch):
    source, target = files
    begun = Held()
    monkeypatch.setattr(copy_lane, "start_writeback", begun)
    target.write_back = False
    await target.copy_from(0, source, 0, 2 * STEP)
    await target.close()  # it would wait for a writeback that has begun
    assert begun.calls == []


async def test_close_waits_for_the_writeback_that_uses_the_descriptor(files, monkeypatch):
    source, target = files
    held = Held()
    monkeypatch.setattr(copy_lane, "start_writeback", held)
    await target.copy_from(0, source, 0, STEP)
    await reached(held.begun)
    closing = asyncio.create_task(target.close())
    done, _ = await asyncio.wait([closing], timeout=0)
    assert not done
    held.go_on.set()
    await closing


async def test_close_withdraws_a_writeback_that_has_not_begun(
    storage, files, image_dir, monkeypatch
):
    source, target = files
    other = await storage.create(str(image_dir / "other"))
    held = Held()
    monkeypatch.setattr(copy_lane, "start_writeback", held)
    await target.copy_from(0, source, 0, STEP)
    await reached(held.begun)
    await other.copy_from(0, source, 0, STEP)
    await other.close()
    held.go_on.set()
    await target.close()
    assert len(held.calls) == 1
