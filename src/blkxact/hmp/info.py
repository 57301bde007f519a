"""``info``: what the monitor shows a person of devices, nodes, jobs and the machine.

Each is the answer of a QMP query, laid out as QEMU does.

QEMU's counterpart: hmp_info_* in ``block/monitor/block-hmp-cmds.c`` and ``monitor/hmp-cmds.c``;
bdrv_image_info_dump in ``block/qapi.c``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from blkxact.block.snapshot_table import snapshot_table
from blkxact.qapi.sizes import human_size
from blkxact.qapi.versions import SNAPSHOT_COLUMNS_APART, behaves
from blkxact.qmp.qdict import in_qdict_order

if TYPE_CHECKING:
    from blkxact.runtime.release import Release

    from .host import Context

Json = Mapping[str, Any]


async def info_block(context: Context, arguments: Mapping[str, Any]) -> None:
    """``info block [-n] [-v] [device]``: devices, or named nodes."""
    nodes, verbose = bool(arguments.get("nodes")), bool(arguments.get("verbose"))
    device = arguments.get("device")
    shown = False
    if not nodes:
        for index, block in enumerate(await context.query("query-block")):
            if device is None or block["device"] == device:
                _separate(context, index)
                _print_device(context, block, verbose=verbose)
                shown = True
    if shown or (device is None and not nodes):
        return
    for index, node in enumerate(await context.query("query-named-block-nodes")):
        if device is None or node["node-name"] == device:
            _separate(context, index)
            context.answer(node["node-name"])
            _print_inserted(context, node, {}, verbose=verbose)


def _separate(context: Context, index: int) -> None:
    if index:
        context.answer("\n")


def _print_device(context: Context, block: Json, *, verbose: bool) -> None:
    inserted = block.get("inserted")
    name = block["device"]
    if name:
        context.answer(name)
        if inserted and "node-name" in inserted:
            context.answer(f" ({inserted['node-name']})")
    else:
        node_name = inserted.get("node-name") if inserted else None
        context.answer(node_name or block.get("qdev") or "<anonymous>")
    if inserted:
        _print_inserted(context, inserted, block, verbose=verbose)
    else:
        context.answer(": [not inserted]\n")
        _print_attached(context, block)


def _print_attached(context: Context, block: Json) -> None:
    if "qdev" in block:
        context.answer(f"    Attached to:      {block['qdev']}\n")
    if block.get("io-status", "ok") != "ok":
        context.answer(f"    I/O status:       {block['io-status']}\n")
    if block.get("removable"):
        locked = "" if block.get("locked") else "not "
        tray = "open" if block.get("tray_open") else "closed"
        context.answer(f"    Removable device: {locked}locked, tray {tray}\n")


def _print_inserted(context: Context, inserted: Json, block: Json, *, verbose: bool) -> None:
    read_only = ", read-only" if inserted["ro"] else ""
    encrypted = ", encrypted" if inserted.get("encrypted") else ""
    inactive = "" if inserted.get("active", True) else ", inactive"
    context.answer(f": {inserted['file']} ({inserted['drv']}{read_only}{encrypted}{inactive})\n")
    _print_attached(context, block)
    cache = inserted["cache"]
    mode = "writeback" if cache["writeback"] else "writethrough"
    mode += ", direct" if cache["direct"] else ""
    mode += ", ignore flushes" if cache["no-flush"] else ""
    context.answer(f"    Cache mode:       {mode}\n")
    if "backing_file" in inserted:
        depth = inserted["backing_file_depth"]
        context.answer(f"    Backing file:     {inserted['backing_file']} (chain depth: {depth})\n")
    if inserted.get("detect_zeroes", "off") != "off":
        context.answer(f"    Detect zeroes:    {inserted['detect_zeroes']}\n")
    if any(inserted.get(name) for name in LIMITS[:3] + LIMITS[6:9]):
        context.answer(f"    I/O throttling:   {_throttling(inserted)}\n")
    if verbose:
        context.answer("\nImages:\n")
        for image in _chain(inserted["image"]):
            context.answer(describe_image(image, context.layer.release))


LIMITS = (
    "bps",
    "bps_rd",
    "bps_wr",
    "bps_max",
    "bps_rd_max",
    "bps_wr_max",
    "iops",
    "iops_rd",
    "iops_wr",
    "iops_max",
    "iops_rd_max",
    "iops_wr_max",
    "iops_size",
)


def _throttling(inserted: Json) -> str:
    limits = " ".join(f"{name}={inserted.get(name, 0)}" for name in LIMITS)
    return f"{limits} group={inserted.get('group', '')}"


def _chain(image: Json | None) -> Iterator[Json]:
    while image is not None:
        yield image
        image = image.get("backing-image")


def describe_image(image: Json, release: Release) -> str:
    """Return an ImageInfo as the text of a release of QEMU."""
    actual = image.get("actual-size")
    virtual = image["virtual-size"]
    lines = [
        f"image: {image['filename']}",
        f"file format: {image['format']}",
        f"virtual size: {human_size(virtual)} ({virtual} bytes)",
        f"disk size: {'unavailable' if actual is None else human_size(actual)}",
    ]
    if image.get("encrypted"):
        lines.append("encrypted: yes")
    if "cluster-size" in image:
        lines.append(f"cluster_size: {image['cluster-size']}")
    if image.get("dirty-flag"):
        lines.append("cleanly shut down: no")
    if "backing-filename" in image:
        lines += _describe_backing(image)
    text = "".join(f"{line}\n" for line in lines)
    if "limits" in image:
        text += "Block limits:\n" + describe(in_qdict_order(image["limits"]), 1)
    if "snapshots" in image:
        apart = behaves(SNAPSHOT_COLUMNS_APART, release)
        table = snapshot_table(image["snapshots"], apart=apart)
        text += "".join(f"{line}\n" for line in ("Snapshot list:", *table))
    specific = image.get("format-specific", {}).get("data")
    if specific:
        text += "Format specific information:\n" + describe(specific, 1)
    return text


def _describe_backing(image: Json) -> Iterator[str]:
    name, full = image["backing-filename"], image.get("full-backing-filename")
    hint = ""
    if full is None:
        hint = " (cannot determine actual path)"
    elif full != name:
        hint = f" (actual path: {full})"
    yield f"backing file: {name}{hint}"
    if "backing-filename-format" in image:
        yield f"backing file format: {image['backing-filename-format']}"


def describe(data: Any, depth: int) -> str:
    """Return any JSON value as indented text, one member a line."""
    if isinstance(data, Mapping):
        members = [(name.replace("-", " "), value) for name, value in data.items()]
    else:
        members = [(f"[{index}]", value) for index, value in enumerate(data)]
    text = ""
    for name, value in members:
        text += f"{'    ' * depth}{name}:"
        if isinstance(value, Mapping | list | tuple):
            text += "\n" + describe(value, depth + 1)
        elif isinstance(value, bool):
            text += f" {'true' if value else 'false'}\n"
        else:
            text += f" {value}\n"
    return text


_COUNTERS = (
    *("rd_bytes", "wr_bytes", "rd_operations", "wr_operations", "flush_operations"),
    *("wr_total_time_ns", "rd_total_time_ns", "flush_total_time_ns"),
    *("rd_merged", "wr_merged", "idle_time_ns"),
)


async def info_blockstats(context: Context, arguments: Mapping[str, Any]) -> None:
    """``info blockstats``: the counters of each device in one line."""
    del arguments
    for device in await context.query("query-blockstats"):
        stats = device["stats"]
        counters = " ".join(f"{name}={stats.get(name, 0)}" for name in _COUNTERS)
        context.answer(f"{device['device']}: {counters}\n")


async def info_block_jobs(context: Context, arguments: Mapping[str, Any]) -> None:
    """``info block-jobs``."""
    del arguments
    jobs = await context.query("query-block-jobs")
    if not jobs:
        context.answer("No active jobs\n")
    for job in jobs:
        what = f"Type {job['type']}, device"
        if job["type"] == "stream":
            what = "Streaming device"
        context.answer(
            f"{what} {job['device']}: Completed {job['offset']} of {job['len']} bytes, "
            f"speed limit {job['speed']} bytes/s\n"
        )


async def info_status(context: Context, arguments: Mapping[str, Any]) -> None:
    """``info status``: running or not."""
    del arguments
    status = await context.query("query-status")
    text = "running" if status["running"] else "paused"
    text += " (single step mode)" if status.get("singlestep") else ""
    if not status["running"] and status["status"] != "paused":
        text += f" ({status['status']})"
    context.answer(f"VM status: {text}\n")


async def info_version(context: Context, arguments: Mapping[str, Any]) -> None:
    """``info version``."""
    del arguments
    version = await context.query("query-version")
    qemu = version["qemu"]
    number = f"{qemu['major']}.{qemu['minor']}.{qemu['micro']}"
    context.answer(f"{number}{version.get('package', '')}\n")


async def info_name(context: Context, arguments: Mapping[str, Any]) -> None:
    """``info name``."""
    del arguments
    name = (await context.query("query-name")).get("name")
    if name:
        context.answer(f"{name}\n")
