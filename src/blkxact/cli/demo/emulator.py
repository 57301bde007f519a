"""The daemon of the demo as a process, and the demo as its QMP client."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, cast

from qemu.qmp import EventListener, ExecuteError, QMPClient
from rich.console import Console

from blkxact.cli.client import connected
from blkxact.cli.errors import CliError
from blkxact.cli.job_board import JobBoard
from blkxact.cli.job_outcome import ENDINGS
from blkxact.cli.watch import follow_jobs

from .disks import Disk, Write

START_SECONDS: Final = 20
END_SECONDS: Final = 20
BITMAP: Final = "nightly"
COMPLETED: Final = "TRANSACTION_COMPLETED"


class Emulator:
    """A running ``blkxact serve`` and a connection to it. Made by ``running``."""

    def __init__(self, client: QMPClient, console: Console, log: Path | None) -> None:
        self._client = client
        self._console = console
        self._log = log
        """What the daemon says, if a person wants to see it."""
        self._log_shown = 0

    async def execute(self, command: str, arguments: dict[str, Any] | None = None) -> Any:
        """Return what the command returned; raises ``CliError`` with the server's error."""
        try:
            return await self._client.execute(command, arguments)
        except ExecuteError as error:
            raise CliError(f"{command}: {error}") from error

    async def plug_in(self, disk: Disk) -> None:
        """Give the guest the disk: what it writes goes through every filter that a job puts in."""
        await self.execute(
            "device_add", {"driver": "virtio-blk", "id": disk.device, "drive": disk.name}
        )

    async def write(self, disk: Disk, writes: Iterable[Write]) -> int:
        """Let the guest write; return how many bytes it wrote."""
        total = 0
        for write in writes:
            request = f"write -q -P {write.pattern} {write.offset} {write.length}"
            line = f'qemu-io -d {disk.device} "{request}"'
            answer = await self.execute("human-monitor-command", {"command-line": line})
            if answer:
                raise CliError(f"{line}: {answer}")
            total += write.length
        return total

    async def bitmap(self, disk: Disk) -> dict[str, Any]:
        """Return the disk's bitmap as ``query-named-block-nodes`` shows it."""
        nodes = cast("list[dict[str, Any]]", await self.execute("query-named-block-nodes"))
        node = next(node for node in nodes if node["node-name"] == disk.name)
        return next(found for found in node["dirty-bitmaps"] if found["name"] == BITMAP)

    async def bitmap_digest(self, disk: Disk) -> str:
        """Return the hash of every bit of the disk's bitmap."""
        arguments = {"node": disk.name, "name": BITMAP}
        answer = await self.execute("x-debug-block-dirty-bitmap-sha256", arguments)
        return cast("str", answer["sha256"])

    @asynccontextmanager
    async def watching(self, transaction: str, jobs: Iterable[str]) -> AsyncIterator[Outcome]:
        """Show bars for ``jobs``, which a transaction inside starts; at the end wait for all.

        ``transaction`` is its ``id``.
        """
        wanted = set(jobs)
        endings = EventListener(names=ENDINGS)
        completions = EventListener(names=[COMPLETED])
        outcome = Outcome()
        with self._client.listen(endings), self._client.listen(completions):
            yield outcome
            with JobBoard(self._console) as board:
                await follow_jobs(
                    self._client, endings, board, done=lambda: wanted <= board.outcomes.keys()
                )
            outcome.jobs = dict(board.outcomes)
            while outcome.completion.get("id") != transaction:
                event = await completions.get()
                outcome.completion = cast("dict[str, Any]", event["data"])
        self._show_log()

    def _show_log(self) -> None:
        """Print what the daemon said since the last time."""
        if self._log is None:
            return
        lines = self._log.read_text(errors="replace").splitlines()
        for line in lines[self._log_shown :]:
            self._console.print(f"    {line}", style="dim", markup=False)
        self._log_shown = len(lines)


@dataclass
class Outcome:
    """What became of a transaction that was watched: filled in when it is over."""

    jobs: dict[str, str] = field(default_factory=dict)
    """By job: completed, cancelled, ``failed: `` and why."""
    completion: dict[str, Any] = field(default_factory=dict)
    """The members of TRANSACTION_COMPLETED."""


@asynccontextmanager
async def running(
    directory: Path,
    disks: Iterable[Disk],
    console: Console,
    *,
    verbose: bool,
    record: Path | None = None,
) -> AsyncIterator[Emulator]:
    """Start the daemon with the disks as nodes; at the end it quits and its files are closed.

    Raises ``CliError`` when it does not start.
    """
    socket = directory / "qmp.sock"
    log = directory / "daemon.log"
    process = _start(socket, log, disks, verbose=verbose, record=record)
    try:
        async with AsyncExitStack() as stack:
            client = await _connect(stack, socket, process, log)
            yield Emulator(client, console, log if verbose else None)
            await client.execute("quit")
        await asyncio.to_thread(process.wait, END_SECONDS)
    finally:
        _end(process)


def _start(
    socket: Path, log: Path, disks: Iterable[Disk], *, verbose: bool, record: Path | None
) -> subprocess.Popen[bytes]:
    words = [sys.executable, "-m", "blkxact", "serve", "--qmp", f"unix:{socket},server=on,wait=off"]
    for disk in disks:
        file = f"file.driver=file,file.filename={os.fspath(disk.path).replace(',', ',,')}"
        words += ["--blockdev", f"qcow2,node-name={disk.name},{file}"]
    if record is not None:
        words += ["--record", os.fspath(record)]
    if verbose:
        words.append("--verbose")
    with log.open("wb") as output:
        # A session of its own: ctrl-C is for the demo, which then ends the daemon in order.
        return subprocess.Popen(  # noqa: S603 - our own command line
            words,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )


async def _connect(
    stack: AsyncExitStack, socket: Path, process: subprocess.Popen[bytes], log: Path
) -> QMPClient:
    deadline = asyncio.get_running_loop().time() + START_SECONDS
    while True:
        try:
            return await stack.enter_async_context(connected(os.fspath(socket)))
        except CliError as error:
            late = asyncio.get_running_loop().time() > deadline
            if late or process.poll() is not None:
                reason = _last_line(log).removeprefix("blkxact: ") or str(error)
                raise CliError(f"the daemon did not start: {reason}") from error
            await asyncio.sleep(0.02)


def _last_line(log: Path) -> str:
    lines = log.read_text(errors="replace").strip().splitlines()
    return lines[-1] if lines else ""


def _end(process: subprocess.Popen[bytes]) -> None:
    """Make sure that the daemon is gone."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
