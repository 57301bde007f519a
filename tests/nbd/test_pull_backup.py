"""Pull backups with real clients: two disks, a guest that never stops, and things that go wrong."""

from __future__ import annotations

import contextlib
import json
import random
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from .process import Daemon, qcow2, run, server, tool_environment

pytestmark = [pytest.mark.nbd, pytest.mark.qemu]

MIB = 1 << 20
SIZE = 8 * MIB
BLOCK = 32 << 10
BLOCKS = SIZE // BLOCK
DISKS = ("a", "b")
AHEAD = 40
"""Writes of the guest that a backup begins after, at the least."""

GUEST = """
import random
disks = []
for uri in argv[1:]:
    disks.append(nbd.NBD())
    disks[-1].connect_uri(uri)
chance, number = random.Random(argv[0]), 0
while True:
    number += 1
    disk, block = chance.randrange(len(disks)), chance.randrange({blocks})
    disks[disk].pwrite(number.to_bytes(4, "big") * ({size} // 4), block * {size})
    print(number, flush=True)
"""
PULL = """
h = nbd.NBD()
h.add_meta_context("qemu:dirty-bitmap:pull")
h.connect_uri(argv[0])
ranges, at = [], 0
while at < h.get_size():
    told = []
    h.block_status(h.get_size() - at, at, lambda name, at, runs, error: told.extend(runs))
    for length, dirty in zip(told[::2], told[1::2]):
        ranges.append((at, length, dirty))
        at += length
pulled = 0
with open(argv[1], "r+b") as out:
    for start, length, dirty in ranges:
        for at in range(start, start + length, 65536) if dirty else ():
            size = min(65536, start + length - at)
            out.seek(at)
            out.write(h.pread(size, at))
            pulled += size
print(pulled)
"""


def shell(script: str, *argv: object) -> list[str]:
    """Return the command that runs a script with libnbd."""
    return ["nbdsh", "-n", "-c", f"argv = {argv!r}", "-c", script]


class Guest:
    """It writes numbered blocks to both disks, one after the other, until it is killed."""

    def __init__(self, seed: int, uris: list[str]) -> None:
        script = GUEST.format(blocks=BLOCKS, size=BLOCK)
        self.seed = seed
        self._process = subprocess.Popen(
            shell(script, seed, *uris),
            stdout=subprocess.PIPE,
            env=tool_environment(),
        )

    def written(self, number: int) -> None:
        """Wait until that many more writes are done."""
        assert self._process.stdout is not None
        for _ in range(number):
            assert self._process.stdout.readline(), "the guest has died"

    def kill(self) -> None:
        self._process.kill()
        self._process.communicate()

    def disks_after(self, number: int) -> list[list[int]]:
        """Return the numbers in the blocks of both disks after so many writes."""
        disks = [[0] * BLOCKS for _ in DISKS]
        chance = random.Random(self.seed)
        for stamp in range(1, number + 1):
            disk, block = chance.randrange(len(DISKS)), chance.randrange(BLOCKS)
            disks[disk][block] = stamp
        return disks


def stamps(path: Path) -> list[int]:
    """Return the number in each block; all of a block must have the same."""
    data = path.read_bytes()
    assert len(data) == SIZE
    found = []
    for start in range(0, SIZE, BLOCK):
        block = data[start : start + BLOCK]
        assert block == block[:4] * (BLOCK // 4), f"block at {start} is torn"
        found.append(int.from_bytes(block[:4], "big"))
    return found


@pytest.fixture
def daemon(image_dir: Path) -> Iterator[Daemon]:
    words = server(image_dir / "python.nbd")
    for name in DISKS:
        path = image_dir / f"{name}.qcow2"
        run("qemu-img", "create", "-q", "-f", "qcow2", path, str(SIZE))
        words += qcow2(name, path)
        words += ["--export", f"nbd,id=guest-{name},node-name={name},writable=on"]
    with Daemon(image_dir, *words) as daemon:
        yield daemon


@pytest.fixture
def guest(daemon: Daemon, seeded: random.Random) -> Iterator[Guest]:
    uris = [daemon.uri(name) for name in DISKS]
    guest = Guest(seeded.randrange(1 << 32), uris)
    with contextlib.ExitStack() as ending:
        ending.callback(guest.kill)
        guest.written(AHEAD)
        yield guest


def succeed(daemon: Daemon, command: str, **arguments: Any) -> None:
    assert daemon.execute(command, **arguments) == {}, command


def action(kind: str, **data: Any) -> dict[str, Any]:
    return {"type": kind, "data": {name.replace("_", "-"): data[name] for name in data}}


def begin(daemon: Daemon, actions: Callable[[str], list[dict[str, Any]]], *bitmaps: str) -> None:
    """Make the point in time of both disks, and export it."""
    todo = []
    for name in DISKS:
        path = daemon.directory / f"scratch-{name}.qcow2"
        run("qemu-img", "create", "-q", "-f", "qcow2", path, str(SIZE))
        file = {"driver": "file", "filename": str(path)}
        succeed(
            daemon,
            "blockdev-add",
            driver="qcow2",
            node_name=f"scratch-{name}",
            file=file,
            backing=name,
        )
        fleece = {"job_id": f"job-{name}", "device": name, "target": f"scratch-{name}"}
        todo += [*actions(name), action("blockdev-backup", **fleece, sync="none")]
    succeed(daemon, "transaction", actions=todo)
    for name in DISKS:
        succeed(
            daemon,
            "block-export-add",
            type="nbd",
            id=f"pull-{name}",
            node_name=f"scratch-{name}",
            name=f"pull-{name}",
            bitmaps=list(bitmaps),
        )


def end(daemon: Daemon) -> None:
    """Take it all away again: nothing may be busy."""
    for name in DISKS:
        succeed(daemon, "block-export-del", id=f"pull-{name}", mode="hard")
        daemon.hear("BLOCK_EXPORT_DELETED")
        succeed(daemon, "block-job-cancel", device=f"job-{name}")
        daemon.hear("BLOCK_JOB_CANCELLED")
        succeed(daemon, "blockdev-del", node_name=f"scratch-{name}")


def pull(daemon: Daemon, name: str) -> int:
    """Bring the dirty parts of a disk's point in time into its backup; return their size."""
    backup = daemon.directory / f"{name}.raw"
    return int(run(*shell(PULL, daemon.uri(f"pull-{name}"), str(backup))))


def check_backups(daemon: Daemon, guest: Guest) -> int:
    """The backups of both disks are what they were after one of the guest's writes; tell which."""
    found = [stamps(daemon.directory / f"{name}.raw") for name in DISKS]
    number = max(max(disk) for disk in found)
    assert found == guest.disks_after(number)
    return number


def test_two_disks_are_pulled_as_they_were_at_one_moment(daemon: Daemon, guest: Guest) -> None:
    begin(daemon, lambda disk: [action("block-dirty-bitmap-add", node=disk, name="b0")])
    guest.written(AHEAD)
    for name in DISKS:
        run("nbdcopy", daemon.uri(f"pull-{name}"), daemon.directory / f"{name}.raw")
    guest.written(AHEAD)
    end(daemon)
    first = check_backups(daemon, guest)
    assert first >= AHEAD

    def increment(disk: str) -> list[dict[str, Any]]:
        scratch = f"scratch-{disk}"
        source = {"node": disk, "name": "b0"}
        return [
            action("block-dirty-bitmap-add", node=scratch, name="pull", disabled=True),
            action("block-dirty-bitmap-merge", node=scratch, target="pull", bitmaps=[source]),
            action("block-dirty-bitmap-add", node=disk, name="b1"),
        ]

    begin(daemon, increment, "pull")
    guest.written(AHEAD)
    pulled = [pull(daemon, name) for name in DISKS]
    guest.written(AHEAD)
    end(daemon)
    second = check_backups(daemon, guest)
    assert second >= first + AHEAD, "the guest went on between the two"
    assert all(0 < size <= SIZE for size in pulled)
    for name in DISKS:
        succeed(daemon, "block-dirty-bitmap-remove", node=name, name="b0")


def test_puller_that_is_killed_leaves_nothing_busy(daemon: Daemon, guest: Guest) -> None:
    def both(disk: str) -> list[dict[str, Any]]:
        scratch = f"scratch-{disk}"
        return [action("block-dirty-bitmap-add", node=scratch, name="pull", disabled=True)]

    begin(daemon, both, "pull")
    command = "h.pread(65536, 0); print('read', flush=True); input()"
    with subprocess.Popen(
        ["nbdsh", "-u", daemon.uri("pull-a"), "-c", command],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=tool_environment(),
    ) as puller:
        assert puller.stdout is not None
        assert puller.stdout.readline() == b"read\n"
        refusal = daemon.execute("block-dirty-bitmap-remove", node="scratch-a", name="pull")
        assert "is currently in use" in refusal["desc"]
        puller.kill()
    guest.written(AHEAD)
    for name in DISKS:
        succeed(daemon, "block-export-del", id=f"pull-{name}", mode="hard")
        daemon.hear("BLOCK_EXPORT_DELETED")
        succeed(daemon, "block-dirty-bitmap-remove", node=f"scratch-{name}", name="pull")
        succeed(daemon, "block-job-cancel", device=f"job-{name}")
        daemon.hear("BLOCK_JOB_CANCELLED")
        succeed(daemon, "blockdev-del", node_name=f"scratch-{name}")
    assert daemon.execute("query-block-jobs") == []


@pytest.mark.parametrize("policy", ["break-snapshot", "break-guest-write"])
def test_scratch_that_fails_breaks_what_the_policy_says(daemon: Daemon, policy: str) -> None:
    """The reader gets an error or old bytes, never new ones; the same for the guest's write."""
    scratch = daemon.directory / "scratch.raw"
    scratch.write_bytes(bytes(SIZE))
    fails = {"event": "pwritev", "errno": 28, "sector": 2 * MIB // 512, "iotype": "write"}
    target = {
        "driver": "blkdebug",
        "node-name": "scratch",
        "image": {"driver": "file", "filename": str(scratch)},
        "inject-error": [fails],
    }
    run("nbdsh", "-u", daemon.uri("a"), "-c", f"h.pwrite(b'o' * {SIZE}, 0)")
    succeed(daemon, "block-export-del", id="guest-a", mode="hard")
    daemon.hear("BLOCK_EXPORT_DELETED")
    cbw = {"driver": "copy-before-write", "node_name": "cbw", "on_cbw_error": policy}
    succeed(daemon, "blockdev-add", **cbw, file="a", target=target)
    succeed(daemon, "blockdev-add", driver="snapshot-access", node_name="access", file="cbw")
    for node, writable in (("cbw", True), ("access", False)):
        succeed(daemon, "block-export-add", type="nbd", id=node, node_name=node, writable=writable)
    script = f"""
import errno
def tried(request):
    try:
        return request() or 'done'
    except nbd.Error as error:
        return errno.errorcode[error.errnum] if error.errnum else error.errno
reader = nbd.NBD()
reader.connect_uri({daemon.uri("access")!r})
def old(at):
    expected = b'o' * 65536
    return tried(lambda: 'old' if reader.pread(65536, at) == expected else 'NEW')
print(old(0), old({2 * MIB}))
print(tried(lambda: h.pwrite(b'n' * 65536, 0)), old(0))
print(tried(lambda: h.pwrite(b'n' * 65536, {2 * MIB})), old(0), old({2 * MIB}), old({4 * MIB}))
print(bytes(h.pread(1, {2 * MIB})))
"""
    told = run("nbdsh", "-u", daemon.uri("cbw"), "-c", script).splitlines()
    broken = policy == "break-snapshot"
    assert told == [
        "old old",
        "done old",
        "done EINVAL EINVAL EINVAL" if broken else "ENOSPC old old old",
        "b'n'" if broken else "b'o'",
    ]
    found = json.loads(run("nbdinfo", "--json", daemon.uri("access")))["exports"]
    assert found[0]["is_read_only"]
