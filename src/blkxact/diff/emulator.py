"""A program with the command line of qemu-system-x86_64, and its monitor.

Invariants: the program runs in a directory of its own, which also has its socket; it is killed when
the block is left, if it has not ended by then.
"""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from blkxact.qmp.json_text import encode_text

from .script import SLOW, name_of

OPTIONS = (
    *("-nodefaults", "-display", "none", "-S", "-machine", "pc", "-accel", "tcg"),
    *("-device", "virtio-scsi-pci,id=scsi0"),
)
"""Of both programs: a machine that runs no guest, and a bus that its disks are plugged into."""
SOCKET = "qmp"
STDERR = "stderr"
TIMEOUT_S = 30
"""How long a reply may take, and a job to rest."""
DEATH_S = 1
"""How long the status of a program that ends may take after its socket has closed."""
POLL_S = 0.002
RECEIVE_SIZE = 1 << 20
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


class _Monitor:
    """The lines of a socket. A stream of asyncio's would drop what came before a reset."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self._unread = b""

    async def send(self, line: bytes) -> None:
        await asyncio.get_running_loop().sock_sendall(self._socket, line + b"\n")

    async def receive(self) -> dict[str, Any] | None:
        """Return the next message; None at the end. Raises ``ConnectionError``."""
        while b"\n" not in self._unread:
            more = await asyncio.get_running_loop().sock_recv(self._socket, RECEIVE_SIZE)
            if not more:
                return None
            self._unread += more
        line, _, self._unread = self._unread.partition(b"\n")
        return dict(json.loads(line))


class Emulator:
    """A running program with one monitor."""

    def __init__(self, process: asyncio.subprocess.Process, monitor: _Monitor) -> None:
        self._process = process
        self._monitor = monitor
        self._number = 0

    async def say(self, line: str) -> Said:
        """Send a line; return what came for it. Raises ``SilentError``."""
        said = Said()
        try:
            async with asyncio.timeout(TIMEOUT_S):
                await self._monitor.send(line.encode("utf-8", "surrogateescape"))
                while True:
                    if _at_rest(await self._ask("query-jobs", said)) and _is_gone(line, said):
                        return said
                    await asyncio.sleep(POLL_S)
        except (OSError, TimeoutError) as error:
            raise await self._silence() from error

    async def query(self, name: str, /, **arguments: Any) -> Any:
        """Return what a query returns, or its error. Raises ``SilentError``."""
        try:
            async with asyncio.timeout(TIMEOUT_S):
                reply = await self._ask(name, Said(), arguments)
        except (OSError, TimeoutError) as error:
            raise await self._silence() from error
        return reply.get("return", reply.get("error"))

    async def quit(self) -> list[dict[str, Any]]:
        """End the program; return its last events. Raises ``SilentError``."""
        events: list[dict[str, Any]] = []
        try:
            async with asyncio.timeout(TIMEOUT_S):
                await self._monitor.send(b'{"execute": "quit"}')
                with suppress(ConnectionError):  # it has ended with something unread
                    while (message := await self._monitor.receive()) is not None:
                        events += [message] if "event" in message else []
                await self._process.wait()
        except (OSError, TimeoutError) as error:
            raise await self._silence() from error
        return events

    async def _silence(self) -> SilentError:
        """Return why the program does not answer."""
        try:
            async with asyncio.timeout(DEATH_S):
                return SilentError(f"ended with status {await self._process.wait()}")
        except TimeoutError:
            return SilentError(f"no answer within {TIMEOUT_S} s")

    async def _ask(
        self, name: str, said: Said, arguments: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        """Send a command of our own; return its reply; note what else comes before."""
        self._number += 1
        own = f"blkxact-diff-{self._number}"
        message = {"execute": name, "id": own, "arguments": arguments or {}}
        await self._monitor.send(encode_text(message).encode())
        while True:
            received = await self._monitor.receive()
            if received is None:
                raise ConnectionError
            if received.get("id") == own:
                return received
            (said.events if "event" in received else said.replies).append(received)


def _is_gone(line: str, said: Said) -> bool:
    """Whether what a line has deleted is gone: QEMU replies before it is."""
    if name_of(line) != "device_del" or not any("return" in reply for reply in said.replies):
        return True
    return any(event["event"] == "DEVICE_DELETED" for event in said.events)


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
        with socket.socket(socket.AF_UNIX) as connection:
            await _connect(connection, process, directory)
            monitor = _Monitor(connection)
            emulator = Emulator(process, monitor)
            await monitor.receive()
            await emulator.say('{"execute": "qmp_capabilities"}')
            yield emulator
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()


async def _connect(
    connection: socket.socket, process: asyncio.subprocess.Process, directory: Path
) -> None:
    """Connect to the monitor as soon as it listens. Raises ``StartError``."""
    connection.setblocking(False)
    try:
        async with asyncio.timeout(TIMEOUT_S):
            while process.returncode is None:
                with suppress(OSError):
                    path = str(directory / SOCKET)
                    await asyncio.get_running_loop().sock_connect(connection, path)
                    return
                await asyncio.sleep(POLL_S)
    except TimeoutError:
        pass
    text = (directory / STDERR).read_text(errors="replace").strip()
    raise StartError(f"the program does not start: {text or process.returncode}")
