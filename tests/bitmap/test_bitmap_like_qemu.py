"""DirtyBitmap against QEMU's own bitmaps: counts, digests, errors, the entries of a query."""

import json
import socket
import subprocess

import pytest

from blkxact.bitmap import DirtyBitmap
from blkxact.errors import QmpError

pytestmark = pytest.mark.qemu


class Qemu:
    """A QEMU without a machine, whose drives are null-co nodes."""

    def __init__(self, **disks):
        ours, theirs = socket.socketpair()
        fd = theirs.fileno()
        words = ["qemu-system-x86_64", "-machine", "none", "-nodefaults", "-display", "none"]
        words += ["-chardev", f"socket,id=m,fd={fd}", "-mon", "chardev=m,mode=control"]
        for name, size in disks.items():
            drive = f"id=drive-{name},node-name={name},if=none,driver=null-co,size={size}"
            words += ["-drive", drive]
        self.process = subprocess.Popen(words, pass_fds=[fd], stdout=subprocess.DEVNULL)
        theirs.close()
        ours.settimeout(60)
        self.socket = ours
        self.stream = ours.makefile("r")
        self.stream.readline()
        self("qmp_capabilities")

    def __call__(self, command, **arguments):
        arguments = {name.replace("_", "-"): value for name, value in arguments.items()}
        request = {"execute": command, "arguments": arguments}
        self.socket.sendall(json.dumps(request).encode())
        while True:
            reply = json.loads(self.stream.readline())
            if "event" not in reply:
                return reply["return"] if "return" in reply else reply["error"]["desc"]

    def write(self, node, offset, length):
        self(
            "human-monitor-command", command_line=f'qemu-io drive-{node} "write {offset} {length}"'
        )

    def bitmaps(self, node):
        [found] = [n for n in self("query-named-block-nodes") if n["node-name"] == node]
        return found["dirty-bitmaps"]

    def close(self):
        self.process.kill()
        self.process.wait()
        self.stream.close()
        self.socket.close()


@pytest.fixture
def qemu():
    started = []

    def start(**disks):
        started.append(Qemu(**disks))
        return started[-1]

    yield start
    for each in started:
        each.close()


def test_digest_and_info_after_random_writes_equal_qemus(qemu, seeded):
    sizes = {"a": 512, "b": 5 << 20, "c": (1 << 30) + 512, "d": 100 << 30}
    real = qemu(**sizes)
    for node, size in sizes.items():
        bitmaps = {}
        for granularity in (512, 4096, 65536, 1 << 20):
            name = f"g{granularity}"
            real("block-dirty-bitmap-add", node=node, name=name, granularity=granularity)
            bitmaps[name] = DirtyBitmap(size, granularity, name)
        for _ in range(12):
            offset = seeded.randrange(size // 512) * 512
            length = min(seeded.choice([512, 4096, 1 << 20, 64 << 20]), size - offset)
            real.write(node, offset, length)
            for bitmap in bitmaps.values():
                bitmap.record_write(offset, length)
        infos = {info["name"]: info for info in real.bitmaps(node)}
        for name, bitmap in bitmaps.items():
            reply = real("x-debug-block-dirty-bitmap-sha256", node=node, name=name)
            assert bitmap.sha256() == reply["sha256"], (node, name)
            assert bitmap.describe() == infos[name]


def test_merge_across_granularities_equals_qemus(qemu, seeded):
    size = (64 << 20) + 1024
    real = qemu(n=size)
    bitmaps = {}
    for granularity in (512, 32768, 1 << 20):
        bitmap = bitmaps[granularity] = DirtyBitmap(size, granularity, f"g{granularity}")
        real("block-dirty-bitmap-add", node="n", name=bitmap.name, granularity=granularity)
        for _ in range(8):
            offset = seeded.randrange(size // 512) * 512
            length = min(seeded.choice([512, 70000 // 512 * 512]), size - offset)
            real.write("n", offset, length)
            bitmap.record_write(offset, length)
        real("block-dirty-bitmap-disable", node="n", name=bitmap.name)
    for target in bitmaps.values():
        for source in bitmaps.values():
            real("block-dirty-bitmap-merge", node="n", target=target.name, bitmaps=[source.name])
            target.merge(source)
            reply = real("x-debug-block-dirty-bitmap-sha256", node="n", name=target.name)
            assert target.sha256() == reply["sha256"], (target.name, source.name)


def test_merge_of_unequal_sizes_fails_in_qemus_words(qemu):
    real = qemu(n=1 << 20, m=1 << 21)
    for node in "nm":
        real("block-dirty-bitmap-add", node=node, name=node)
    text = real(
        "block-dirty-bitmap-merge", node="n", target="n", bitmaps=[{"node": "m", "name": "m"}]
    )
    with pytest.raises(QmpError) as caught:
        DirtyBitmap(1 << 20, 65536, "n").merge(DirtyBitmap(1 << 21, 65536, "m"))
    assert caught.value.desc == text


@pytest.mark.parametrize("success", [True, False])
def test_frozen_bitmap_and_its_end_look_as_in_qemu(qemu, success):
    size = 10_000_384
    real = qemu(n=size, t=size)
    real("block-dirty-bitmap-add", node="n", name="b", granularity=4096)
    bitmap = DirtyBitmap(size, 4096, "b")

    def write(offset, length):
        real.write("n", offset, length)
        bitmap.record_write(offset, length)

    write(1 << 20, 65536)
    real(
        "blockdev-backup",
        job_id="j",
        device="n",
        target="t",
        sync="incremental",
        bitmap="b",
        auto_finalize=False,
    )
    bitmap.freeze("j")
    write(5 << 20, 4096)
    write(1 << 20, 4096)
    # QEMU lists the job's own bitmap of what is left to copy as well: nameless, not recording.
    [copy, *entries] = real.bitmaps("n")
    assert not copy["recording"]
    assert entries == [bitmap.successor.describe(), bitmap.describe()]

    text = real("block-dirty-bitmap-clear", node="n", name="b")
    with pytest.raises(QmpError) as caught:
        bitmap.check()
    assert caught.value.desc == text

    while real("query-jobs")[0]["status"] != "pending":
        pass
    if success:
        real("job-finalize", id="j")
    else:
        real("job-cancel", id="j")
    while real("query-jobs"):
        pass
    bitmap.settle("j", success=success)
    assert real.bitmaps("n") == [bitmap.describe()]
    reply = real("x-debug-block-dirty-bitmap-sha256", node="n", name="b")
    assert bitmap.sha256() == reply["sha256"]
