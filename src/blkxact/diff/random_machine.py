"""Random commands on the machine: its run state, its snapshots, its objects, its monitor."""

from __future__ import annotations

from .draw import (
    EXPORTS,
    GROUPS,
    MACHINE_SNAPSHOTS,
    SHORT_JOBS,
    WELL_KNOWN,
    Draw,
)
from .script import SLOW, command


def run_state(draw: Draw) -> str:
    """Stop the guest, or begin again. It never runs: its firmware would look at the disks."""
    return command(draw.pick("stop", "system_reset", "query-status"))


def snapshot(draw: Draw) -> str:
    """Make, apply or delete a snapshot of several disks."""
    verb = draw.pick("save", "save", "save", "load", "delete", "delete")
    names = [draw.pick("a", "b", "t", draw.node()) for _ in range(draw.pick(0, 1, 1, 2))]
    where = {} if verb == "delete" else {"vmstate": draw.pick(*(names or ["a"]))}
    return command(
        f"snapshot-{verb}",
        job_id=draw.pick(*SHORT_JOBS),
        tag=draw.pick(*MACHINE_SNAPSHOTS),
        devices=names,
        **where,
    )


def group_limits(draw: Draw) -> str:
    """Change or show the limits of a throttle group."""
    path = f"/objects/{draw.pick(*GROUPS)}"
    if draw.chance(0.5):
        return command("qom-get", path=path, property="limits")
    limits = draw.maybe(iops_total=[0, 10**9, -1], bps_total=[0, 10**9], bps_total_max=[2 * 10**9])
    return command("qom-set", path=path, property="limits", value=limits)


def latency_histogram(draw: Draw) -> str:
    """Ask for a histogram of how long requests take, or for none."""
    return command(
        "block-latency-histogram-set",
        id=draw.device(),
        **{
            name.replace("-", "_"): value
            for name, value in draw.maybe(
                boundaries=[[10**12], [5, 3], []], boundaries_read=[[10**12, 10**13]]
            ).items()
        },
    )


def nbd_server(draw: Draw) -> str:
    """Stop the NBD server with all exports, or start it again."""
    if draw.chance(0.3):
        return command("nbd-server-stop")
    address = {"type": "unix", "data": {"path": "nbd"}}
    return command("nbd-server-start", addr=address, **draw.maybe(max_connections=[0, 1]))


def query(draw: Draw) -> str:
    """Ask for something that is not looked at after each step."""
    match draw.pick("exports", "nodes", "stats", "node-stats", "bitmap", "yank"):
        case "exports":
            return command("query-block-exports")
        case "nodes":
            return command("query-named-block-nodes", **draw.maybe(flat=[True, False]))
        case "stats":
            return command("query-blockstats")
        case "node-stats":
            return command("query-blockstats", query_nodes=True)
        case "bitmap":
            node, name = draw.bitmap_at()
            return command("x-debug-block-dirty-bitmap-sha256", node=node, name=name)
    return command("query-yank")


def human(draw: Draw) -> str:
    """Do something in the words of the human monitor."""
    node, device, job = draw.node(), draw.device(), draw.any_job("ready")
    line = draw.pick(
        "info block",
        f"info block -v {node}",
        "info block -n",
        "info block-jobs",
        "info status",
        f"commit {draw.pick('all', device, node)}",
        f"block_resize {device} {draw.pick('1M', '4M', '8M')}",
        f"block_job_cancel {job}",
        f"block_job_pause {job}",
        f"block_job_resume {job}",
        f"block_job_complete {job}",
        f"block_job_set_speed {job} {'1' if job.startswith(SLOW) else '1G'}",
        f"drive_del {node}",
        f"eject {draw.pick('', '-f ')}{device}",
        f"nbd_server_add {draw.pick('', '-w ')}{node} {draw.pick(*EXPORTS)}",
        f"nbd_server_remove {draw.pick('', '-f ')}{draw.pick(*EXPORTS, *WELL_KNOWN)}",
        f"snapshot_blkdev_internal {device} s0",
        f"snapshot_delete_blkdev_internal {device} s0",
        f'qemu-io {node} "{draw.pick("length", "flush", "map", "alloc 0 64k", "read 0 4k")}"',
    )
    return command("human-monitor-command", command_line=line)
