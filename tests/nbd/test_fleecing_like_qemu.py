"""The same point in time kept by blkxact and by QEMU's storage daemon: clients see the same."""

from __future__ import annotations

from pathlib import Path

import pytest

from .process import QEMU, Daemon, run

pytestmark = [pytest.mark.nbd, pytest.mark.qemu]

MIB = 1 << 20

BEFORE = """
h.pwrite(b"o" * 262144, 0)
h.zero(65536, 524288)
h.pwrite(b"p" * 65536, 589824)
"""
CLIENTS = """
import errno
handles = {}
for context in ("base:allocation", "qemu:allocation-depth", "qemu:dirty-bitmap:b"):
    handles[context] = nbd.NBD()
    handles[context].add_meta_context(context)
    handles[context].connect_uri(uri)
reader = handles["base:allocation"]

def tried(request, *arguments):
    try:
        return request(*arguments)
    except nbd.Error as error:
        return error.errno

def extents(handle, offset, length):
    found = []
    told = lambda name, at, runs, error: found.extend(runs)
    return tried(handle.block_status, length, offset, told) or found

def look(what):
    print("--", what)
    for offset in range(0, h.get_size(), 65536):
        data = tried(reader.pread, 65536, offset)
        print(offset, bytes(data[:1]) if isinstance(data, bytearray) else data,
              *(extents(handle, offset, 65536) for handle in handles.values()))

look("untouched")
print(extents(reader, 0, h.get_size()), tried(reader.pread, 2, 786431))
h.pwrite(b"n" * 65536, 0)
h.pwrite(b"n", 300000)
h.zero(65536, 131072)
h.pwrite(b"n" * 65536, 524288)
h.pwrite(b"n" * 65536, 917504)
look("overwritten")
print(tried(reader.pwrite, b"x", 0), tried(reader.zero, 65536, 0), tried(reader.flush))
print(tried(reader.trim, 65536, 0), tried(reader.trim, 65536, 196608))
look("discarded")
print(bytes(h.pread(1, 0)), bytes(h.pread(1, 196608)))
"""


def keep(daemon: Daemon, directory: Path) -> str:
    """Keep a point in time of a part of a disk; return what its clients see."""
    directory.mkdir()
    for name in ("s", "t"):
        path = directory / name
        run("qemu-img", "create", "-q", "-f", "raw", path, "1M")
        options = {"driver": "file", "filename": str(path), "discard": "unmap"}
        assert daemon.execute("blockdev-add", node_name=name, **options) == {}
    address = {"type": "unix", "data": {"path": str(daemon.nbd)}}
    assert daemon.execute("nbd-server-start", addr=address) == {}
    export = {"type": "nbd", "id": "e", "node_name": "s", "writable": True}
    assert daemon.execute("block-dirty-bitmap-add", node="s", name="b") == {}
    assert daemon.execute("block-export-add", **export) == {}
    run("nbdsh", "-u", daemon.uri("s"), "-c", BEFORE)
    daemon.execute("block-export-del", id="e", mode="hard")
    daemon.hear("BLOCK_EXPORT_DELETED")
    bitmap = {"node": "s", "name": "b"}
    cbw = {"driver": "copy-before-write", "node_name": "cbw", "file": "s", "target": "t"}
    assert daemon.execute("blockdev-add", **cbw, bitmap=bitmap) == {}
    access = {"driver": "snapshot-access", "node_name": "access", "file": "cbw"}
    assert daemon.execute("blockdev-add", **access, discard="unmap") == {}
    for name, more in (("cbw", {}), ("access", {"allocation_depth": True, "bitmaps": [bitmap]})):
        one = {"type": "nbd", "id": name, "node_name": name, "writable": True}
        assert daemon.execute("block-export-add", **one, **more) == {}
    uri = f"uri = {daemon.uri('access')!r}"
    return run("nbdsh", "-u", daemon.uri("cbw"), "-c", uri, "-c", CLIENTS)


def test_clients_of_a_point_in_time_see_what_qemus_see(image_dir: Path) -> None:
    with Daemon(image_dir) as ours, Daemon(image_dir, program=QEMU) as theirs:
        seen = keep(ours, image_dir / "ours")
        assert seen == keep(theirs, image_dir / "theirs")
    assert "b'o'" in seen
    assert "EINVAL" in seen
