"""The driver ``blklogwrites``: a log of all writes, in the format of dm-log-writes."""

from __future__ import annotations

import errno
import struct
import subprocess
from pathlib import Path

import pytest

from blkxact.errors import QmpError
from blkxact.testing.faults import Fault
from tests.emulator import MIB, Emulator

REQUESTS = (
    *("write -P 1 0 4k", "write -P 2 700 100", "flush", "write -z 8k 4k", "discard 4k 8k"),
    *("write -f -P 5 64k 512", "write -z -u 16k 512", "write -P 3 100k 8k", "flush"),
)
HEADER = struct.Struct("<QQQI")


@pytest.fixture
async def emulator():
    emulator = Emulator()
    for name, size in (("disk", MIB), ("log", 0)):
        await emulator.create(f"/{name}", "raw", size)
        file = {"driver": "file", "filename": f"/{name}", "discard": "unmap"}
        await emulator.execute("blockdev-add", node_name=name, **file)
    yield emulator
    await emulator.layer.shutdown()


async def add(emulator: Emulator, **options: object) -> None:
    await emulator.execute(
        "blockdev-add",
        driver="blklogwrites",
        node_name="f",
        file="disk",
        log="log",
        discard="unmap",
        **options,
    )


async def log_of(emulator: Emulator) -> bytes:
    node = emulator.layer.find_node("log")
    return bytes(await node.pread(0, node.length))


def entries(log: bytes) -> list[tuple[int, ...]]:
    """Return the entries of a log, and how many it says that it has."""
    _, _, count, size = HEADER.unpack_from(log)
    found, place = [(count, size)], size
    while place < len(log):
        found.append(struct.unpack_from("<QQQQ", log, place))
        place += size if found[-1][2] & 4 else size + found[-1][1] * size
    return found


def check(ours: bytes, theirs: bytes) -> None:
    assert entries(ours) == entries(theirs)
    assert ours.hex() == theirs.hex()


def qemu_io(folder: Path, options: str, requests: tuple[str, ...]) -> None:
    image = f"driver=blklogwrites,file.driver=file,file.filename={folder}/disk,discard=unmap"
    image += f",file.discard=unmap,log.driver=file,log.filename={folder}/log{options}"
    words = [word for request in requests for word in ("-c", request)]
    subprocess.run(
        ["qemu-io", "-t", "writeback", "--image-opts", image, *words],
        check=True,
        capture_output=True,
    )


@pytest.mark.qemu
@pytest.mark.parametrize(
    ("options", "members"),
    [
        ("", {}),
        (",log-sector-size=4096", {"log_sector_size": 4096}),
        (",log-super-update-interval=1", {"log_super_update_interval": 1}),
        (",log-super-update-interval=3", {"log_super_update_interval": 3}),
    ],
)
async def test_log_is_that_of_qemu_byte_for_byte(
    emulator: Emulator, tmp_path: Path, options: str, members: dict[str, int]
) -> None:
    (tmp_path / "disk").write_bytes(bytes(MIB))
    (tmp_path / "log").touch()
    qemu_io(tmp_path, options, REQUESTS)
    await add(emulator, **members)
    for request in REQUESTS:
        await emulator.qemu_io("f", request)
    await emulator.execute("blockdev-del", node_name="f")
    check(await log_of(emulator), (tmp_path / "log").read_bytes())
    disk = bytes(await emulator.layer.find_node("disk").pread(0, MIB))
    assert disk == (tmp_path / "disk").read_bytes()

    # Both go on with the log.
    qemu_io(tmp_path, ",log-append=on", REQUESTS[:4])
    await add(emulator, log_append=True)
    for request in REQUESTS[:4]:
        await emulator.qemu_io("f", request)
    await emulator.execute("blockdev-del", node_name="f")
    check(await log_of(emulator), (tmp_path / "log").read_bytes())


async def test_log_has_what_the_disk_refused(emulator: Emulator) -> None:
    await add(emulator, log_super_update_interval=1)
    fault = Fault("storage.pwrite", errno.EIO, {"path": "/disk"})
    emulator.storage.faults.add(fault)
    assert "Input/output error" in await emulator.qemu_io("f", "write -P 7 0 512")
    log = await log_of(emulator)
    assert HEADER.unpack_from(log)[2] == 1
    assert log[1024:1536] == b"\x07" * 512


async def test_failure_of_the_log_is_that_of_the_write(emulator: Emulator) -> None:
    await add(emulator)
    emulator.storage.faults.add(Fault("storage.pwrite", errno.ENOSPC, {"path": "/log"}))
    assert "No space left" in await emulator.qemu_io("f", "write -P 7 0 512")


async def test_discard_of_part_of_a_sector_is_left_out(emulator: Emulator) -> None:
    """QEMU 7.2 aborts."""
    await add(emulator, log_super_update_interval=1)
    await emulator.qemu_io("f", "discard 100 300")
    assert await log_of(emulator) == b""
    await emulator.qemu_io("f", "discard 100 2000")
    assert struct.unpack_from("<QQQQ", await log_of(emulator), 512) == (1, 3, 4, 0)


async def test_name_has_the_log(emulator: Emulator) -> None:
    await add(emulator, log_sector_size=1024)
    assert emulator.layer.find_node("f").filename == (
        'json:{"log": {"driver": "file", "filename": "/log"}, "log-sector-size": 1024, '
        '"driver": "blklogwrites", "file": {"driver": "file", "filename": "/disk"}}'
    )


@pytest.mark.parametrize(
    ("members", "desc"),
    [
        ({"log_sector_size": 0}, "Invalid log sector size 0"),
        ({"log_sector_size": 16}, "Invalid log sector size 16"),
        ({"log_sector_size": 513}, "Invalid log sector size 513"),
        ({"log_sector_size": 1 << 24}, "Invalid log sector size 16777216"),
        ({"log_super_update_interval": 0}, "Invalid log superblock update interval 0"),
        (
            {"log_append": True, "log_sector_size": 512},
            "log-append and log-sector-size are mutually exclusive",
        ),
    ],
)
async def test_bad_options_are_refused(
    emulator: Emulator, members: dict[str, int], desc: str
) -> None:
    with pytest.raises(QmpError) as caught:
        await add(emulator, **members)
    assert caught.value.desc == desc
    assert await log_of(emulator) == b""


@pytest.mark.parametrize(
    ("start", "desc"),
    [
        (b"x" * 28, "Invalid log superblock magic"),
        (HEADER.pack(0x6A736677736872, 2, 0, 512), "Unsupported log version 2"),
        (HEADER.pack(0x6A736677736872, 1, 0, 100), "Invalid log sector size 100"),
        (
            HEADER.pack(0x6A736677736872, 1, 1, 512).ljust(528, b"\0") + struct.pack("<Q", 0x30),
            "Invalid flags 0x30 in log entry 0",
        ),
    ],
)
async def test_log_that_is_none_is_not_continued(
    emulator: Emulator, start: bytes, desc: str
) -> None:
    node = emulator.layer.find_node("log")
    await node.driver.pwrite(0, start.ljust(1024, b"\0"))
    before = await log_of(emulator)
    with pytest.raises(QmpError) as caught:
        await add(emulator, log_append=True)
    assert caught.value.desc == desc
    assert await log_of(emulator) == before
