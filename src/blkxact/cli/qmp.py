"""``blkxact qmp``: one command, its reply as JSON, and its success as exit status."""

from __future__ import annotations

import argparse
import asyncio
import math
import re
from collections.abc import Mapping
from typing import Any, Final

from qemu.qmp import EventListener, ExecuteError, QMPClient

from blkxact.qmp.json_text import encode_text

from .arguments import Arguments
from .client import GREETING_SECONDS, connected, next_event, until_ended
from .errors import CliError
from .job_outcome import is_success
from .job_wait import EVENTS, jobs_of_transaction, wait_for_jobs
from .parser import Parser

REPLY_SECONDS: Final = 60
"""How long a reply may take, unless ``--timeout`` says otherwise."""

EPILOG: Final = f"""\
A value that is JSON is taken as JSON, anything else as a string; where the
server wants a string, a value is taken as it is written. Dots lead into nested
members. A word in braces is a JSON object of arguments.

examples:
  blkxact qmp /tmp/qmp.sock query-jobs
  blkxact qmp /tmp/qmp.sock block-dirty-bitmap-add node=disk0 name=b0 granularity=65536
  blkxact qmp /tmp/qmp.sock blockdev-add driver=qcow2 node-name=d file.driver=file \\
      file.filename=d.qcow2
  blkxact qmp /tmp/qmp.sock --wait-job j blockdev-backup job-id=j device=d target=t sync=full
  blkxact qmp /tmp/qmp.sock --wait-job j query-jobs    (a job that is running already)

Without --timeout the server has {GREETING_SECONDS} seconds to greet and {REPLY_SECONDS} seconds to
reply; events and jobs may take any time. A job with auto-finalize=false ends after job-finalize,
and a job that stopped at an error after it was resumed or cancelled.

quit returns when the server has closed its images.

exit status: 0 the command succeeded, and the jobs that were waited for completed;
1 it failed, or a job failed or was cancelled
"""

_WRONG_TYPE: Final = re.compile(
    r"Invalid parameter type for '(?P<path>[^']*)', expected: (?P<type>.*)"
)
_NO_TEXT: Final = ("integer", "number", "boolean", "array", "object", "null")
"""Expected types for which it is of no use to send a string."""


def configure(parser: Parser) -> None:
    """Add the options of ``qmp``."""
    parser.epilog = EPILOG
    parser.mixes = True
    add = parser.add_argument
    add("socket", metavar="SOCKET", help="path of a Unix socket, or HOST:PORT")
    add("name", metavar="QMP-COMMAND", help="for example query-block-jobs")
    add("arguments", metavar="KEY=VALUE", nargs="*", help="the command's arguments")
    add("--oob", action="store_true", help="execute out of band")
    add(
        "--timeout",
        metavar="SECONDS",
        type=_seconds,
        help="how long to wait in all: for the reply, and for the event or jobs",
    )
    wait = parser.add_mutually_exclusive_group()
    wait.add_argument(
        "--wait-event", metavar="EVENT", help="after success wait for this event and print it"
    )
    wait.add_argument(
        "--wait-job",
        metavar="ID",
        action="append",
        help="after success wait until this job ends, and print how (may be repeated)",
    )
    wait.add_argument(
        "--wait-transaction",
        action="store_true",
        help="after success wait until all jobs of the transaction end, and print how",
    )


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds < math.inf:
        raise argparse.ArgumentTypeError(f"'{text}' is not a number of seconds above 0")
    return seconds


def run(args: argparse.Namespace) -> int:
    """Execute the command and print the reply."""
    if args.wait_transaction and args.name != "transaction":
        raise CliError("--wait-transaction is for the command 'transaction'")
    return asyncio.run(_Call(args).run())


class _Call:
    """One call of a command."""

    def __init__(self, args: argparse.Namespace) -> None:
        self._args = args
        self._arguments = Arguments(args.arguments)
        self._awaited = "the reply"
        jobs = args.wait_job or []
        if args.wait_transaction:
            jobs = jobs_of_transaction(self._arguments.value())
        self._jobs: list[str] = jobs
        self._listener = EventListener(EVENTS if jobs else [args.wait_event or ""])

    async def run(self) -> int:
        """Return the exit status."""
        seconds = self._args.timeout
        try:
            async with (
                asyncio.timeout(seconds),
                connected(self._args.socket, greeting_seconds=seconds) as client,
            ):
                with client.listen(self._listener):
                    return await self._converse(client)
        except TimeoutError:
            raise CliError(
                f"{self._awaited} did not come within {seconds or REPLY_SECONDS:g} seconds"
            ) from None

    async def _converse(self, client: QMPClient) -> int:
        limit = None if self._args.timeout else REPLY_SECONDS
        try:
            async with asyncio.timeout(limit):
                result = await self._execute(client)
        except ExecuteError as error:
            reply = {"class": error.error_class, "desc": str(error)}
            _print({"error": reply})
            return 1
        _print({"return": result})
        if self._args.wait_event:
            self._awaited = self._args.wait_event
            _print(await next_event(client, self._listener))
        if self._jobs:
            await self._wait_for_jobs(client)
        if self._args.name == "quit":
            # The server replies first and closes its images, and then its monitors, afterwards.
            self._awaited = "the server's end"
            async with asyncio.timeout(limit):
                await until_ended(client)
        return 0

    async def _execute(self, client: QMPClient) -> object:
        """Execute the command; send again as text what the server wants as a string.

        It has refused the command for its form, so nothing was done yet.
        """
        refusal: ExecuteError | None = None
        while True:
            try:
                return await client.execute(
                    self._args.name, self._arguments.value() or None, oob=self._args.oob
                )
            except ExecuteError as error:
                wrong = _WRONG_TYPE.fullmatch(str(error))
                if wrong is None or wrong["type"] in _NO_TEXT:
                    raise
                if not self._arguments.take_as_text(wrong["path"]):
                    raise (refusal or error) from None
                refusal = error

    async def _wait_for_jobs(self, client: QMPClient) -> None:
        self._awaited = "the end of " + ", ".join(f"job '{name}'" for name in self._jobs)
        failures = []
        for job in await wait_for_jobs(client, self._listener, self._jobs):
            if job.report is not None:
                _print(job.report)
            if job.outcome is not None and not is_success(job.outcome):
                verb = "was " if job.outcome == "cancelled" else ""
                failures.append(f"job '{job.name}' {verb}{job.outcome}")
        if failures:
            raise CliError("; ".join(failures))


def _print(value: Mapping[str, Any]) -> None:
    print(encode_text(dict(value), indent=2), flush=True)
