"""query-command-line-options: the options of the command line that have parameters.

QEMU's counterpart: ``qapi/misc.json``; ``util/qemu-config.c``.
"""

from __future__ import annotations

from typing import Any, Final

from blkxact.block_layer import BlockLayer
from blkxact.errors import QmpError
from blkxact.machine.option_groups import groups, parameters
from blkxact.qapi.misc import CommandLineOptions

from .command import Command


def query_command_line_options(layer: BlockLayer, args: CommandLineOptions) -> list[dict[str, Any]]:
    """query-command-line-options."""
    known = groups(layer.release)
    if args.option is not None and args.option not in known:
        raise QmpError(f"invalid option name: {args.option}")
    return [
        {
            "option": option,
            "parameters": [
                {"name": name, "type": kind}
                for name, kind in parameters(option, layer.release).items()
            ],
        }
        for option in known
        if args.option in (None, option)
    ]


COMMANDS: Final = [
    Command(
        "query-command-line-options",
        query_command_line_options,
        CommandLineOptions,
        system=True,
        locked=False,
    )
]
