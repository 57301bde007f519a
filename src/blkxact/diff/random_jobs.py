"""Random commands on bitmaps and jobs, and transactions of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .draw import BITMAPS, FILES, JOBS, KIB, SHORT_JOBS, SNAPSHOTS, Draw
from .script import ENDLESS, SLOW, command

Action = tuple[str, dict[str, Any]]
"""A command's name and its arguments."""


_PROBED = ("a", "b", "over", "base")
"""Sources for which QEMU probes an existing target; for a node of a protocol it does not."""


def bitmap_verb(draw: Draw) -> Action:
    """Return a command on a bitmap."""
    verb = draw.pick(
        "remove", "clear", "clear", "enable", "disable", "merge", "merge", "add", "add", "add"
    )
    node, name = draw.bitmap_at()
    arguments: dict[str, Any] = {"node": node, "name": name}
    if verb == "add":
        node = draw.node()
        arguments = {"node": node, "name": draw.new(draw.world.bitmaps.get(node, ()), *BITMAPS)}
        arguments |= draw.maybe(
            granularity=[4096, 65536, 512, 1000], persistent=[True, True, False], disabled=[True]
        )
    elif verb == "merge":
        far, other = draw.bitmap_at()
        there = {"node": far, "name": other}
        sources = [draw.pick(draw.bitmap(node), there) for _ in range(draw.pick(1, 2))]
        arguments = {"node": arguments["node"], "target": arguments["name"], "bitmaps": sources}
    return f"block-dirty-bitmap-{verb}", arguments


def bitmap_command(draw: Draw) -> str:
    """Do something with a bitmap."""
    return _command(bitmap_verb(draw))


def backup(draw: Draw) -> Action:
    """Return a backup to a node, or to a file."""
    sync = draw.pick("full", "full", "top", "none", "incremental", "incremental", "bitmap")
    with_bitmap = sync in ("incremental", "bitmap")
    source, bitmap = draw.bitmap_at() if with_bitmap else (draw.node(), draw.bitmap())
    arguments = {
        "device": source,
        "sync": sync,
        **draw.job(*[ENDLESS] if sync == "none" else JOBS),
        **_seldom(draw, compress=[False, True]),
        **_seldom(draw, filter_node_name=["f0", "w"], on_target_error=["ignore", "stop"]),
    }
    if with_bitmap or draw.chance(0.05):
        arguments["bitmap"] = bitmap
    if sync == "bitmap" or draw.chance(0.05):
        arguments["bitmap-mode"] = draw.pick("on-success", "never", "always")
    if draw.chance(0.75):
        return "blockdev-backup", arguments | {"target": draw.free_node()}
    return "drive-backup", arguments | _new_file(draw, arguments["device"])


def _new_file(draw: Draw, source: str) -> dict[str, Any]:
    new = {
        "target": FILES[draw.pick("new0", "new1", "new2", "t")],
        **draw.maybe(mode=["existing", "absolute-paths"], format=["qcow2", "qcow2", "raw"]),
    }
    if new.get("mode") == "existing" and source not in _PROBED:
        new.setdefault("format", "qcow2")
    return new


def backup_command(draw: Draw) -> str:
    """Start a backup."""
    return _command(backup(draw))


def mirror(draw: Draw) -> str:
    """Start a mirror to a node, or to a file."""
    arguments = {
        "device": draw.node(),
        "sync": draw.pick(*["full", "top", "none"] * 3, "incremental"),
        **draw.job(*SHORT_JOBS),
        **draw.maybe(copy_mode=["background", "write-blocking"]),
        **_seldom(draw, filter_node_name=["f0", "w"], granularity=[64 * KIB, 1000]),
        **_seldom(draw, buf_size=[-1, 0, 1], unmap=[False]),
    }
    if draw.chance(0.1):
        arguments["replaces"] = draw.node()
    if draw.chance(0.75):
        return command("blockdev-mirror", target=draw.free_node(), **arguments)
    if draw.chance(0.5):
        arguments["node-name"] = draw.pick("new0", "new1", "m")
    arguments |= _new_file(draw, arguments["device"])
    return command("drive-mirror", **arguments)


def commit(draw: Draw) -> str:
    """Move what is in an image into one below it."""
    arguments: dict[str, Any] = {"device": draw.overlay(), **draw.job(*SHORT_JOBS)}
    for end in ("top", "base"):
        if draw.chance(0.3):
            arguments[f"{end}-node"] = draw.likely(_below(draw, arguments["device"]), draw.node())
        elif draw.chance(0.1):
            arguments[end] = draw.pick(*FILES.values())
    if draw.chance(0.1):
        arguments["backing-file"] = draw.pick("base.qcow2", "a.qcow2")
    arguments |= _seldom(draw, filter_node_name=["f0", "w"], on_error=["stop", "ignore"])
    return command("block-commit", **arguments)


def stream(draw: Draw) -> str:
    """Copy what is below an image into it."""
    arguments: dict[str, Any] = {"device": draw.overlay(), **draw.job(*SHORT_JOBS)}
    arguments.pop("auto-dismiss", None)  # a query of the concluded job would crash QEMU 7.2
    match draw.pick("all", "all", "base-node", "base", "bottom"):
        case "base":
            arguments["base"] = draw.pick(*FILES.values())
        case ("base-node" | "bottom") as end:
            arguments[end] = draw.likely(_below(draw, arguments["device"]), draw.node())
    if draw.chance(0.1):
        arguments["backing-file"] = draw.pick("base.qcow2", "a.qcow2")
    arguments |= _seldom(draw, filter_node_name=["f0", "w"], on_error=["stop"])
    return command("block-stream", **arguments)


def _below(draw: Draw, node: str) -> list[str]:
    """Return the nodes below a node, as far as they have names."""
    found: list[str] = []
    while (node := draw.world.nodes.get(node, "")) in draw.world.nodes:
        found.append(node)
    return found


def _seldom(draw: Draw, **members: Sequence[Any]) -> dict[str, Any]:
    """Return, seldom, some of the members."""
    return draw.maybe(**members) if draw.chance(0.2) else {}


_VERBS: Mapping[str, Sequence[str]] = {
    "cancel": ("running", "ready", "pending", "paused"),
    "complete": ("ready",),
    "pause": ("running", "ready"),
    "resume": ("paused", "standby"),
    "finalize": ("pending",),
    "dismiss": ("concluded",),
}
"""Verbs, and the states in which a job is mostly sent each."""


def job_verb(draw: Draw) -> str:
    """Send a verb to a job, which is sometimes in the wrong state for it."""
    wanted = [verb for verb, states in _VERBS.items() if draw.world.jobs_in(*states)]
    verb = draw.likely(wanted, *_VERBS)
    job = draw.any_job(*_VERBS[verb])
    if draw.chance(0.5):
        return command(f"job-{verb}", id=job)
    if draw.chance(0.1):
        return command("block-job-set-speed", device=f"{SLOW}0", speed=1)
    if verb in ("finalize", "dismiss"):
        return command(f"block-job-{verb}", id=job)
    force = draw.maybe(force=[True, False]) if verb == "cancel" else {}
    return command(f"block-job-{verb}", device=job, **force)


def end_of_holding(draw: Draw) -> str:
    """End a job that may hold up what a guest writes: both programs would wait for ever."""
    verb = draw.pick("job-finalize", "job-finalize", "job-cancel")
    return command(verb, id=draw.pick(*draw.world.holding))


def transaction(draw: Draw) -> str:
    """Do several things at once."""
    actions = [_action(draw) for _ in range(draw.pick(1, 2, 2, 3))]
    jobs_only = all(action["type"].endswith("-backup") for action in actions)
    modes = [{"completion-mode": "individual"}]
    if jobs_only or draw.chance(0.1):
        modes.append({"completion-mode": "grouped"})
    properties = draw.maybe(properties=modes)
    return command("transaction", actions=actions, **properties)


_ACTIONS = {bitmap_verb: 9, backup: 9, "abort": 1, "snapshot": 3, "internal": 3, "file": 3}
"""How often each kind of action comes, in relation to the others."""


def _action(draw: Draw) -> dict[str, Any]:
    match draw.weighted(list(_ACTIONS), list(_ACTIONS.values())):
        case "abort":
            return {"type": "abort", "data": {}}
        case "snapshot":
            data = {"node": draw.node(), "overlay": draw.free_node()}
            return {"type": "blockdev-snapshot", "data": data}
        case "internal":
            data = {"device": draw.node(), "name": draw.pick(*SNAPSHOTS)}
            return {"type": "blockdev-snapshot-internal-sync", "data": data}
        case "file":
            name = draw.new(draw.world.nodes, "new0", "new1", "new2")
            data = {"node-name": draw.node(), "snapshot-file": FILES[name]}
            data |= {"snapshot-node-name": name, **draw.maybe(mode=["existing"])}
            return {"type": "blockdev-snapshot-sync", "data": data}
        case make:
            name, arguments = make(draw)
            if name.endswith("able") and not draw.world.has_bitmap(**arguments):
                name = "block-dirty-bitmap-clear"  # QEMU would crash
            return {"type": name, "data": arguments}


def _command(action: Action) -> str:
    name, arguments = action
    return command(name, **arguments)
