"""query-command-line-options: the options of the command line that have parameters.

Listed are the options that concern the block layer and the monitors, with those of QEMU's
parameters that do something here. Management programs look for a few of them.

QEMU's counterpart: ``qapi/misc.json``; ``util/qemu-config.c``.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

from blkxact.block_layer import BlockLayer
from blkxact.errors import QmpError
from blkxact.qapi.misc import CommandLineOptions

from .command import Command

_THROTTLED: Final = [
    f"{limit}{suffix}"
    for suffix in ("", "-max", "-max-length")
    for limit in ("bps-total", "bps-read", "bps-write", "iops-total", "iops-read", "iops-write")
]
_DRIVE: Final = " ".join(
    [
        "node-name:string driver:string format:string file:string if:string media:string",
        "index:number bus:number unit:number read-only:boolean auto-read-only:boolean",
        "force-share:boolean discard:string detect-zeroes:string aio:string",
        "cache.writeback:boolean cache.direct:boolean cache.no-flush:boolean",
        "rerror:string werror:string throttling.group:string throttling.iops-size:number",
        *(f"throttling.{name}:number" for name in _THROTTLED),
    ]
)

OPTIONS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "add-fd": "fd:number set:number opaque:string",
        "chardev": (
            "backend:string path:string host:string port:string fd:string ipv4:boolean "
            "ipv6:boolean server:boolean wait:boolean"
        ),
        "device": "",
        "drive": _DRIVE,
        "machine": "type:string accel:string",
        "memory": "size:size",
        "mon": "mode:string chardev:string pretty:boolean",
        "msg": "timestamp:boolean",
        "name": "guest:string",
        "object": "",
        "smp-opts": "cpus:number",
    }
)
"""Parameters and their types by option."""


def query_command_line_options(layer: BlockLayer, args: CommandLineOptions) -> list[dict[str, Any]]:
    """query-command-line-options."""
    del layer
    if args.option is not None and args.option not in OPTIONS:
        raise QmpError(f"invalid option name: {args.option}")
    return [
        {"option": option, "parameters": [_parameter(word) for word in words.split()]}
        for option, words in OPTIONS.items()
        if args.option in (None, option)
    ]


def _parameter(word: str) -> dict[str, str]:
    name, kind = word.rsplit(":", 1)
    return {"name": name, "type": kind}


COMMANDS: Final = [
    Command(
        "query-command-line-options",
        query_command_line_options,
        CommandLineOptions,
        system=True,
        locked=False,
    )
]
