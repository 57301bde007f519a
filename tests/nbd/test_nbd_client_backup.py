"""A real daemon backs a disk up to a real server that is killed in the middle of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from .peers import Peer, nbdkit, qemu_nbd
from .process import Daemon, run

pytestmark = [pytest.mark.nbd, pytest.mark.qemu]

MIB = 1 << 20
SIZE = 8 * MIB


def add_target(daemon: Daemon, peer: Peer) -> None:
    server = {"driver": "nbd", "server": peer.address}
    assert daemon.execute("blockdev-add", driver="raw", node_name="t", file=server) == {}


def back_up(daemon: Daemon, **more: Any) -> None:
    words = {"device": "disk", "target": "t", "job_id": "j", "auto_dismiss": False, **more}
    assert daemon.execute("blockdev-backup", **words) == {}


def dirty(daemon: Daemon) -> int:
    for node in daemon.execute("query-named-block-nodes"):
        if node["node-name"] == "disk":
            (bitmap,) = node["dirty-bitmaps"]
            assert not bitmap["busy"]
            return int(bitmap["count"])
    raise AssertionError("the node is gone")


def test_server_killed_during_a_backup_costs_nothing_but_the_retry(image_dir: Path, seeded) -> None:
    disk, copy = image_dir / "disk.raw", image_dir / "copy.raw"
    disk.write_bytes(seeded.randbytes(SIZE))
    copy.write_bytes(bytes(SIZE))
    node = f"file,node-name=disk,filename={disk}"
    with (
        qemu_nbd(image_dir, "-f", "raw", copy) as peer,
        Daemon(image_dir, "--blockdev", node) as daemon,
    ):
        daemon.execute("block-dirty-bitmap-add", node="disk", name="b")
        pattern = 'qemu-io disk "write -P 9 0 8M"'
        daemon.execute("human-monitor-command", command_line=pattern)
        add_target(daemon, peer)
        increment = {"sync": "incremental", "bitmap": "b"}
        back_up(daemon, **increment, speed=MIB)
        while not daemon.execute("query-jobs")[0]["current-progress"]:
            pass
        peer.kill()
        daemon.execute("block-job-set-speed", device="j", speed=0)
        ended = daemon.hear("BLOCK_JOB_COMPLETED")["data"]
        assert ended["error"] == "Input/output error"
        assert daemon.execute("job-dismiss", id="j") == {}
        assert dirty(daemon) == SIZE
        assert daemon.execute("blockdev-del", node_name="t") == {}
        peer.start()
        add_target(daemon, peer)
        back_up(daemon, **increment)
        assert "error" not in daemon.hear("BLOCK_JOB_COMPLETED")["data"]
        assert dirty(daemon) == 0
    run("qemu-img", "compare", "-f", "raw", "-F", "raw", disk, copy)


def test_source_that_cannot_be_read_in_places_is_copied_around_them(
    image_dir: Path, seeded
) -> None:
    """An error once in a while, ignored: what failed is read again."""
    disk, copy = image_dir / "disk.raw", image_dir / "copy.raw"
    disk.write_bytes(seeded.randbytes(SIZE))
    copy.write_bytes(bytes(SIZE))
    words = ["file", disk, "error-pread-rate=50%"]
    with (
        nbdkit(image_dir, "--filter=error", *words) as peer,
        Daemon(image_dir, "--blockdev", f"file,node-name=t,filename={copy}") as daemon,
    ):
        server = {"driver": "nbd", "server": peer.address, "node_name": "disk"}
        assert daemon.execute("blockdev-add", **server) == {}
        back_up(daemon, sync="full", on_source_error="ignore")
        assert "error" not in daemon.hear("BLOCK_JOB_COMPLETED")["data"]
    assert copy.read_bytes() == disk.read_bytes()
