"""``blockdev-create`` with the driver ``file``: a new file of the host, laid out as told."""

import errno

import pytest

from blkxact.storage.file_hints import FileHints
from blkxact.testing.faults import Fault

MIB = 1 << 20


async def create(emulator, **members):
    """Run the job to its end; return its error, or None."""
    options = {"driver": "file", "filename": "/new", "size": MIB, **members}
    await emulator.execute("blockdev-create", job_id="c", options=options)
    await emulator.jobs_over()
    (job,) = await emulator.execute("query-jobs")
    await emulator.execute("job-dismiss", id="c")
    return job.get("error")


@pytest.mark.parametrize(("mode", "room"), [("off", 0), ("falloc", MIB), ("full", MIB)])
async def test_new_file_has_the_room_that_was_asked_for(emulator, mode, room):
    assert await create(emulator, preallocation=mode) is None
    file = await emulator.storage.open("/new")
    assert (file.size(), file.allocated_size()) == (MIB, room)
    await file.close()


@pytest.mark.parametrize(
    ("mode", "point", "error"),
    [
        ("off", "truncate", "Could not resize file"),
        ("falloc", "write_zeroes", "Could not preallocate new data"),
        ("full", "pwrite", "Could not write zeros for preallocation"),
        ("full", "flush", "Could not flush file to disk"),
    ],
)
async def test_room_that_cannot_be_had_is_given_back(emulator, mode, point, error):
    emulator.storage.faults.add(Fault(f"storage.{point}", errno.ENOSPC, {"path": "/new"}, times=1))
    assert await create(emulator, preallocation=mode) == f"{error}: No space left on device"
    file = await emulator.storage.open("/new")
    assert (file.size(), file.allocated_size()) == (0, 0)
    await file.close()


@pytest.mark.parametrize(
    ("members", "error"),
    [
        ({"preallocation": "metadata"}, "Unsupported preallocation mode: metadata"),
        ({"extent-size-hint": 1 << 33}, "Extent size hint is too large"),
    ],
)
async def test_what_no_file_can_have_is_refused_as_in_qemu(emulator, members, error):
    assert await create(emulator, **members) == error


async def test_hints_reach_the_file_system(emulator, monkeypatch):
    given = []
    create_file = emulator.storage.create

    async def create_and_tell(path, hints):
        given.append(hints)
        return await create_file(path, hints)

    monkeypatch.setattr(emulator.storage, "create", create_and_tell)
    assert await create(emulator, nocow=True, **{"extent-size-hint": 2 * MIB}) is None
    assert await create(emulator) is None
    assert given == [FileHints(nocow=True, extent_size=2 * MIB), FileHints()]
