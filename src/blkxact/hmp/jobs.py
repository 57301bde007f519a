"""Jobs for people: start backups and mirrors, and use their verbs.

QEMU's counterpart: ``block/monitor/block-hmp-cmds.c`` (hmp_drive_mirror and others).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from .command import DEVICE, HmpCommand
from .command_line import Flag, Size, Word
from .host import Context

_TARGET: Final = (
    Flag("reuse", "n"),
    Flag("full", "f"),
)
_PLACE: Final = (DEVICE, Word("target"), Word("format", optional=True))


async def drive_mirror(context: Context, arguments: Mapping[str, Any]) -> None:
    """``drive_mirror``."""
    await context.execute("drive-mirror", _target(arguments) | {"unmap": True})


async def drive_backup(context: Context, arguments: Mapping[str, Any]) -> None:
    """``drive_backup``."""
    compress = bool(arguments.get("compress"))
    await context.execute("drive-backup", _target(arguments) | {"compress": compress})


async def block_stream(context: Context, arguments: Mapping[str, Any]) -> None:
    """``block_stream``: the job has the name of the device."""
    device = arguments["device"]
    given = {name: arguments[name] for name in ("speed", "base") if name in arguments}
    await context.execute("block-stream", {"device": device, "job-id": device, **given})


def _target(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return the members that say what is copied where."""
    members = {
        "device": arguments["device"],
        "target": arguments["target"],
        "sync": "full" if arguments.get("full") else "top",
        "mode": "existing" if arguments.get("reuse") else "absolute-paths",
    }
    if arguments.get("format") is not None:
        members["format"] = arguments["format"]
    return members


async def cancel(context: Context, arguments: Mapping[str, Any]) -> None:
    """``block_job_cancel``."""
    force = bool(arguments.get("force"))
    await context.execute("block-job-cancel", {"device": arguments["device"], "force": force})


async def complete(context: Context, arguments: Mapping[str, Any]) -> None:
    """``block_job_complete``."""
    await context.execute("block-job-complete", {"device": arguments["device"]})


async def pause(context: Context, arguments: Mapping[str, Any]) -> None:
    """``block_job_pause``."""
    await context.execute("block-job-pause", {"device": arguments["device"]})


async def resume(context: Context, arguments: Mapping[str, Any]) -> None:
    """``block_job_resume``."""
    await context.execute("block-job-resume", {"device": arguments["device"]})


async def set_speed(context: Context, arguments: Mapping[str, Any]) -> None:
    """``block_job_set_speed``."""
    await context.execute(
        "block-job-set-speed", {"device": arguments["device"], "speed": arguments["speed"]}
    )


COMMANDS: Final[Mapping[str, HmpCommand]] = {
    "block_job_cancel": HmpCommand(
        cancel, (Flag("force", "f"), DEVICE), "[-f] device", "end a job (-f: at once)"
    ),
    "block_job_complete": HmpCommand(
        complete, (DEVICE,), "device", "let a job that is ready complete"
    ),
    "block_job_pause": HmpCommand(pause, (DEVICE,), "device", "pause a job"),
    "block_job_resume": HmpCommand(resume, (DEVICE,), "device", "resume a job"),
    "block_job_set_speed": HmpCommand(
        set_speed,
        (DEVICE, Size("speed")),
        "device speed",
        "limit a job's speed (MiB a second)",
    ),
    "block_stream": HmpCommand(
        block_stream,
        (DEVICE, Size("speed", optional=True), Word("base", optional=True)),
        "device [speed [base]]",
        "copy what backing files hold into a disk (speed: MiB a second)",
    ),
    "drive_backup": HmpCommand(
        drive_backup,
        (*_TARGET, Flag("compress", "c"), *_PLACE),
        "[-n] [-f] [-c] device target [format]",
        "copy a disk as it is now (-n: into what exists, -f: all layers, -c: compressed)",
    ),
    "drive_mirror": HmpCommand(
        drive_mirror,
        (*_TARGET, *_PLACE),
        "[-n] [-f] device target [format]",
        "keep a copy of a disk up to date (-n: in what exists, -f: all layers)",
    ),
}
