"""Images for the tests: opened by the driver over files, and by QEMU's tools."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

from blkxact.block.open_context import OpenContext
from blkxact.block.types import ChildRole
from blkxact.drivers.qcow2.create import CreateOptions, create
from blkxact.drivers.qcow2.driver import Qcow2Driver
from blkxact.drivers.qcow2.storage_child import StorageChild
from blkxact.storage.os_file import OsStorage
from tests.environment import environment, options_of

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


class StorageEdge(StorageChild):
    """With a role, as an edge of the graph has."""

    role = ChildRole.IMAGE


async def create_qcow2(storage, path, size, *, data_file=None, **options):
    names = [path] if data_file is None else [path, data_file]
    files = [await storage.create(str(name)) for name in names]
    try:
        child, *rest = map(StorageChild, files)
        named = {"data_file": str(data_file)} if data_file else {}
        await create(child, CreateOptions(size, **named, **options), *rest)
    finally:
        for file in files:
            await file.close()


async def open_qcow2(
    storage, path, *, read_only=False, backing=None, child=None, data_file=None, **context
):
    """Return the driver over the file at ``path``; it closes with ``close_qcow2``."""
    if child is None:
        child = StorageEdge(await storage.open(str(path), read_only=read_only))
    children = {"file": child}
    if data_file is not None:
        opened = await storage.open(str(data_file), read_only=read_only)
        children["data-file"] = StorageEdge(opened)
    if backing is not None:
        children["backing"] = backing
    opening = OpenContext(environment(storage), "node", read_only=read_only, **context)
    try:
        return await Qcow2Driver.open(opening, options_of(Qcow2Driver, children), children)
    except BaseException:
        for name in children.keys() - {"backing"}:
            await children[name].file.close()
        raise


async def close_qcow2(driver):
    await driver.close()
    for name in driver.children.keys() - {"backing"}:
        await driver.children[name].file.close()


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
