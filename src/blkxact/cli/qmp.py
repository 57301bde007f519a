"""``blkxact qmp``: one command, its reply as JSON, and the reply's verdict as exit status."""

from __future__ import annotations

import argparse
import asyncio
from typing import Any, Final

from qemu.qmp import EventListener, ExecuteError

from blkxact.qmp.json_text import encode_text

from .arguments import parse_arguments
from .client import connected
from .errors import CliError

EPILOG: Final = """\
A value that is JSON is taken as JSON, anything else as a string. Dots lead into
nested members. A word in braces is a JSON object of arguments.

examples:
  blkxact qmp /tmp/qmp.sock query-jobs
  blkxact qmp /tmp/qmp.sock block-dirty-bitmap-add node=disk0 name=b0 granularity=65536
  blkxact qmp /tmp/qmp.sock blockdev-add driver=qcow2 node-name=d file.driver=file \\
      file.filename=d.qcow2
  blkxact qmp /tmp/qmp.sock --wait-event JOB_STATUS_CHANGE job-cancel id=job0

exit status: 0 the command succeeded, 1 it failed
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``qmp``."""
    parser.epilog = EPILOG
    add = parser.add_argument
    add("socket", metavar="SOCKET", help="path of a Unix socket, or HOST:PORT")
    add("name", metavar="QMP-COMMAND", help="for example query-block-jobs")
    add("arguments", metavar="KEY=VALUE", nargs="*", help="the command's arguments")
    add("--oob", action="store_true", help="execute out of band")
    add("--wait-event", metavar="EVENT", help="after success wait for this event and print it")
    add("--timeout", metavar="SECONDS", type=float, help="how long to wait for reply and event")


def run(args: argparse.Namespace) -> int:
    """Execute the command and print the reply."""
    arguments = parse_arguments(args.arguments)
    try:
        return asyncio.run(_execute(args, arguments))
    except TimeoutError:
        awaited = args.wait_event or "the reply"
        raise CliError(f"{awaited} did not come within {args.timeout:g} seconds") from None


async def _execute(args: argparse.Namespace, arguments: dict[str, Any]) -> int:
    async with asyncio.timeout(args.timeout), connected(args.socket) as client:
        listener = EventListener(names=[args.wait_event] if args.wait_event else [""])
        with client.listen(listener):
            try:
                result = await client.execute(args.name, arguments or None, oob=args.oob)
            except ExecuteError as error:
                reply = {"class": error.error_class, "desc": str(error)}
                print(encode_text({"error": reply}, indent=2))
                return 1
            print(encode_text({"return": result}, indent=2), flush=True)
            if args.wait_event:
                print(encode_text(dict(await listener.get()), indent=2))
    return 0
