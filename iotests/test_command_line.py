"""The command line around it: ``serve`` with its options, ``qmp`` and ``watch``."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import sys
from pathlib import Path

from .harness import HELD, Daemon, action
from .scene import Disk, Scene, inject, qcow2, with_faults
from .test_crash import quit_daemon, running


async def blkxact(*words: str) -> tuple[int, str]:
    """Run ``blkxact`` as a person does; return its exit status and all it printed."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "blkxact", *words,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    output, _ = await process.communicate()
    assert process.returncode is not None
    return process.returncode, output.decode()


async def failing_pair(scene: Scene) -> tuple[list[Disk], list[dict]]:
    """Return two disks, and the actions that back them up; the second one fails."""
    disks = await scene.busy_disks(2)
    good = disks[0].incremental(await disks[0].next_target(), "good")
    path = await disks[1].next_target()
    await scene.add_node("sick", with_faults(qcow2(path), inject(20, "write")))
    bad = action(
        "blockdev-backup", device="d1", job_id="bad", target="sick", sync="incremental",
        bitmap="b0",
    )  # fmt: skip
    return disks, [good, bad]


async def test_deferred_can_be_the_default_and_verbose_tells_every_step(directory: Path) -> None:
    """``--default-completion-mode deferred -v``: for clients that send no properties."""
    words = ["--default-completion-mode", "deferred", "-v"]
    async with running(directory, *words) as (scene, daemon):
        disks, actions = await failing_pair(scene)
        before = len(daemon.text())
        await scene.client.transaction(*actions)
        await scene.client.hear("BLOCK_JOB_COMPLETED", device="bad")
        await scene.client.hear("BLOCK_JOB_COMPLETED", device="good")

        async def over() -> bool:
            return await scene.client.run("query-transactions") == []

        await scene.client.until("the transaction is over", over)
        for disk in disks:
            await disk.assert_dirty({1, 20, 21})
        assert scene.client.data("TRANSACTION_COMPLETED")[1:] == [], "it has no id"
        told = daemon.text()[before:]
        await scene.client.transaction(*actions, mode="individual", txn="named")
        await scene.client.hear("TRANSACTION_COMPLETED", id="named", status="failed")
        await disks[0].assert_dirty(set())
        await disks[1].assert_dirty({1, 20, 21})
        # A command that QEMU has as well does what it does there.
        plain = disks[1].incremental(await disks[1].next_target(), "plain")
        await scene.client.run("drive-backup", **plain["data"])
        await scene.client.hear("JOB_STATUS_CHANGE", id="plain", status="null")
        await disks[1].assert_dirty(set())
        assert await quit_daemon(scene.client, daemon) == 0
    check_steps(told)


def check_steps(told: str) -> None:
    """Check that a person can read what happened, in order, one line a step."""
    lines = told.splitlines()
    assert all(re.match(r"[0-9T:.-]+Z blkxact: ", line) for line in lines), told
    steps = [
        "prepare drive-backup", "prepare blockdev-backup",
        "commit drive-backup", "commit blockdev-backup",
        "clean drive-backup", "clean blockdev-backup",
        "reference dropped by launch", "all over", "bitmap d0/b0 reclaimed",
    ]  # fmt: skip
    places = [next((i for i, line in enumerate(lines) if step in line), -1) for step in steps]
    assert -1 not in places, told
    assert places == sorted(places), told
    assert any("reference taken by job good" in line for line in lines), told
    assert any("reference dropped by job bad" in line for line in lines), told
    assert any("blkxact: job bad: failed: " in line for line in lines), told
    assert any("bitmap d1/b0 reclaimed" in line for line in lines), told


async def test_qmp_and_watch_drive_a_backup(scene: Scene) -> None:
    """``blkxact qmp`` runs commands one by one, ``blkxact watch`` shows the jobs to their end."""
    (disk,) = await scene.busy_disks(1)
    socket = str(scene.daemon.socket)
    target = await disk.next_target()
    status, text = await blkxact(
        "qmp", socket, "drive-backup", "device=d0", "job-id=job", "sync=incremental",
        "bitmap=b0", f"target={target}", "format=qcow2", "mode=existing", f"speed={HELD}",
    )  # fmt: skip
    assert (status, json.loads(text)) == (0, {"return": {}})
    await scene.client.held("job")
    watching = asyncio.create_task(blkxact("watch", "--until-idle", socket))
    status, text = await blkxact("qmp", socket, "query-jobs")
    assert json.loads(text)["return"][0]["id"] == "job"
    status, text = await blkxact(
        "qmp", socket, "block-job-set-speed", "device=job", "speed=0",
        "--wait-event", "BLOCK_JOB_COMPLETED",
    )  # fmt: skip
    assert status == 0
    assert "BLOCK_JOB_COMPLETED" in text
    status, text = await watching
    assert status == 0, text
    status, text = await blkxact("qmp", socket, "query-block-dirty")
    assert status == 1
    assert json.loads(text)["error"]["class"] == "CommandNotFound"
    disk.chain.append(target)
    await disk.assert_dirty(set())
    await scene.restore(disk)


async def test_watch_tells_which_job_failed_by_its_exit_status(scene: Scene) -> None:
    """The bars end as the jobs end: one is completed, one has failed."""
    _, actions = await failing_pair(scene)
    for one in actions:
        one["data"]["speed"] = HELD
    await scene.client.transaction(*actions, txn="try")
    await scene.client.held("good", "bad")
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "blkxact", "watch", "--until-idle", str(scene.daemon.socket),
        stdout=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None
    shown = ""
    while "bad" not in shown or "good" not in shown:
        line = await asyncio.wait_for(process.stdout.readline(), 20)
        assert line, shown
        shown += line.decode()
    await scene.client.release("good")
    await scene.client.release("bad")
    rest, _ = await process.communicate()
    shown += rest.decode()
    assert process.returncode == 1, shown
    assert "completed" in shown
    assert "failed: Input/output error" in shown
    await scene.client.hear("TRANSACTION_COMPLETED", id="try", status="failed")


async def test_serve_tells_of_a_bad_option_in_one_line(directory: Path) -> None:
    words = ["--blockdev", "qcow2,node-name=d0,file.driver=file,file.filename=/nowhere"]
    with Daemon(directory, *words) as daemon:
        assert await daemon.ended() == 1
        (line,) = daemon.text().splitlines()
        assert "Could not open '/nowhere': No such file or directory" in line
    assert not daemon.socket.exists()


async def test_unknown_completion_mode_is_refused(scene: Scene) -> None:
    told = await scene.client.refused_transaction(action("abort"), mode="both")
    assert told == "Parameter 'completion-mode' does not accept value 'both'"
