"""Images for the tests: opened by the driver over files, and by QEMU's tools."""

from __future__ import annotations

import json
import random
import subprocess
from pathlib import Path

from blkxact.block.driver_api import OpenContext
from blkxact.clock import SystemClock
from blkxact.drivers.qcow2.create import CreateOptions, create
from blkxact.drivers.qcow2.driver import Qcow2Driver
from blkxact.drivers.qcow2.storage_child import StorageChild
from blkxact.storage.os_file import OsStorage

BackingChild = StorageChild


class DriverChild:
    """Another qcow2 driver as backing file."""

    wants_events = False

    def __init__(self, driver):
        self.driver = driver

    @property
    def length(self):
        return self.driver.length

    def pread(self, offset, length):
        return self.driver.pread(offset, length)


async def create_qcow2(storage, path, size, **options):
    file = await storage.create(str(path))
    try:
        await create(StorageChild(file), CreateOptions(size, **options))
    finally:
        await file.close()


async def open_qcow2(storage, path, *, read_only=False, backing=None, child=None, **context):
    """Return the driver over the file at ``path``; it closes with ``close_qcow2``."""
    if child is None:
        child = StorageChild(await storage.open(str(path), read_only=read_only))
    children = {"file": child}
    if backing is not None:
        children["backing"] = backing
    opening = OpenContext(
        storage, SystemClock(), random.Random(0), "node", read_only=read_only, **context
    )
    try:
        return await Qcow2Driver.open(opening, {}, children)
    except BaseException:
        await child.file.close()
        raise


async def close_qcow2(driver):
    await driver.close()
    await driver.children["file"].file.close()


def run(*command):
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True, check=False)
    assert done.returncode == 0, (command, done.returncode, done.stdout, done.stderr)
    return done.stdout


def qemu_io(path, *commands, options=()):
    args = [part for command in commands for part in ("-c", command)]
    out = run("qemu-io", *options, "-f", "qcow2", *args, path)
    assert "Pattern verification failed" not in out, out
    return out


def qemu_check(path):
    """Return the numbers of ``qemu-img check``, whatever it finds."""
    done = subprocess.run(
        ["qemu-img", "check", "--output=json", "-f", "qcow2", str(path)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    return json.loads(done.stdout)


def assert_clean(path):
    found = qemu_check(path)
    wrong = {k: found.get(k) for k in ("leaks", "corruptions", "check-errors") if found.get(k)}
    assert not wrong, found


def assert_content(path, content: bytes):
    """The disk as QEMU reads it is ``content``."""
    raw = Path(str(path) + ".raw")
    raw.write_bytes(content)
    run("qemu-img", "compare", "-f", "qcow2", "-F", "raw", path, raw)
    raw.unlink()


def make_storage():
    return OsStorage()
