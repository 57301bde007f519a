"""A program with the command line of qemu-system-x86_64, and its monitor.

Invariants: the program runs in a directory of its own, which also has its socket; it is killed when
the block is left, if it has not ended by then.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .script import SLOW

OPTIONS = (
    *("-nodefaults", "-display", "none", "-S", "-machine", "pc", "-accel", "tcg"),
    *("-device", "virtio-scsi-pci,id=scsi0"),
)
"""Of both programs: a machine that runs no guest, and a bus that its disks are plugged into."""
SOCKET = "qmp"
STDERR = "stderr"
TIMEOUT_S = 30
"""How long a reply may take, and a job to rest."""
POLL_S = 0.002
LINE_LIMIT = 1 << 26
AT_REST = frozenset({"ready", "standby", "paused", "pending", "concluded", "null"})


class SilentError(Exception):
    """The program does not answer any more, or has ended."""


class StartError(Exception):
    """The program does not start."""


@dataclass
class Said:
    """What the monitor sent for one line: its replies, and the events until all was at rest."""

    replies: list[dict[str, Any]] = field(default_factory=list)
    events: list[dict[str, Any]] = field(default_factory=list)


class Emulator:
    """A running program with one monitor."""

    def __init__(
        self,
        process: asyncio.subprocess.Process,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        self._process = process
        self._reader, self._writer = reader, writer
        self._number = 0

    async def say(self, line: str) -> Said:
        """Send a line; return what came for it. Raises ``SilentError``."""
        said = Said()
        try:
            async with asyncio.timeout(TIMEOUT_S):
                self._writer.write(line.encode("utf-8", "surrogateescape") + b"\n")
                while not _at_rest(await self._ask("query-jobs", said)):  # noqa: ASYNC110 - polls
                    await asyncio.sleep(POLL_S)
        except (OSError, TimeoutError, asyncio.IncompleteReadError) as error:
            raise SilentError(f"no answer to {line}") from error
        return said

    async def query(self, name: str, /, **arguments: Any) -> Any:
        """Return what a query returns, or its error. Raises ``SilentError``."""
        try:
            async with asyncio.timeout(TIMEOUT_S):
                reply = await self._ask(name, Said(), arguments)
        except (OSError, TimeoutError, asyncio.IncompleteReadError) as error:
            raise SilentError(f"no answer to {name}") from error
        return reply.get("return", reply.get("error"))

    async def quit(self) -> list[dict[str, Any]]:
        """End the program; return its last events. Raises ``SilentError``."""
        self._writer.write(b'{"execute": "quit"}\n')
        rest = b""
        try:
            async with asyncio.timeout(TIMEOUT_S):
                with suppress(ConnectionError):  # it has ended with something unread
                    while more := await self._reader.read(LINE_LIMIT):
                        rest += more
                await self._process.wait()
        except TimeoutError as error:
            raise SilentError("it does not quit") from error
        return [message for line in rest.splitlines() if "event" in (message := json.loads(line))]

    async def _ask(
        self, name: str, said: Said, arguments: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        """Send a command of our own; return its reply; note what else comes before."""
        self._number += 1
        own = f"blkxact-diff-{self._number}"
        message = {"execute": name, "id": own, "arguments": arguments or {}}
        self._writer.write(json.dumps(message).encode() + b"\n")
        while True:
            received = json.loads(await self._reader.readuntil(b"\n"))
            if received.get("id") == own:
                return dict(received)
            (said.events if "event" in received else said.replies).append(received)


def _at_rest(reply: dict[str, Any]) -> bool:
    jobs = reply.get("return", [])
    slow = any(job["id"].startswith(SLOW) for job in jobs)
    return all(
        job["status"] in AT_REST
        or job["id"].startswith(SLOW)
        or (slow and job["status"] == "waiting")  # for a slow one of its transaction
        for job in jobs
    )


@asynccontextmanager
async def running(program: Sequence[str], directory: Path) -> AsyncIterator[Emulator]:
    """Run a program in a directory until the block is left. Raises ``StartError``, ``OSError``."""
    words = [*program, *OPTIONS, "-qmp", f"unix:{SOCKET},server=on,wait=off"]
    with (directory / STDERR).open("wb") as stderr:
        process = await asyncio.create_subprocess_exec(
            *words,
            cwd=directory,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=stderr,
        )
    try:
        reader, writer = await _connect(process, directory)
        emulator = Emulator(process, reader, writer)
        await reader.readuntil(b"\n")
        await emulator.say('{"execute": "qmp_capabilities"}')
        yield emulator
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()


async def _connect(
    process: asyncio.subprocess.Process, directory: Path
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Connect to the monitor as soon as it listens. Raises ``StartError``."""
    try:
        async with asyncio.timeout(TIMEOUT_S):
            while process.returncode is None:
                with suppress(OSError):
                    return await asyncio.open_unix_connection(directory / SOCKET, limit=LINE_LIMIT)
                await asyncio.sleep(POLL_S)
    except TimeoutError:
        pass
    text = (directory / STDERR).read_text(errors="replace").strip()
    raise StartError(f"the program does not start: {text or process.returncode}")
