"""A program with the command line of qemu-system-x86_64, and its monitor.

Invariants: the program runs in a directory of its own, which also has its socket. It leads a
process group, which is killed when the block is left, if it has not ended by then; an interrupt
from the terminal does not reach it. It is also killed when this process is.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from blkxact.qmp.json_text import encode_text
from blkxact.storage.libc import die_with_parent

from .known import ENDED
from .script import ENDLESS, SLOW, name_of

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
ANSWER, REST = "answer", "rest of all jobs"
"""What a program that is silent for so long lacks."""
POLL_S = 0.002
MIRROR_SLICE_S = 0.15
"""Within this time a mirror of QEMU that is ready looks at what a guest has written."""
RECEIVE_SIZE = 1 << 20
AT_REST = frozenset({"standby", "paused", "pending", "concluded", "null"})
SETTLING = frozenset(
    f"{prefix}job-{verb}" for prefix in ("", "block-") for verb in ("cancel", "complete", "pause")
)
"""Commands after which even a slow job comes to rest soon."""
HMP = "human-monitor-command"
SETTLING_FOR_PEOPLE = frozenset({"block_job_cancel", "block_job_complete", "block_job_pause"})
OWN = "~"
"""The id of the commands that are not part of a script."""
_OWN_REPLY = f'"id": "{OWN}"'.encode()
_QUERY_JOBS = f'{{"execute":"query-jobs","id":"{OWN}"}}'.encode()


class SilentError(Exception):
    """The program does not answer any more, its jobs do not rest, or it has ended."""


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
        self._unread = bytearray()

    async def send(self, line: bytes) -> None:
        await asyncio.get_running_loop().sock_sendall(self._socket, line + b"\n")

    async def receive(self) -> bytes | None:
        """Return the next message; None at the end. Raises ``ConnectionError``."""
        while (end := self._unread.find(b"\n")) < 0:
            more = await asyncio.get_running_loop().sock_recv(self._socket, RECEIVE_SIZE)
            if not more:
                return None
            self._unread += more
        line = bytes(self._unread[:end])
        del self._unread[: end + 1]
        return line


class Emulator:
    """A running program with one monitor. ``release`` is QEMU's: ``7.2``."""

    def __init__(
        self, process: asyncio.subprocess.Process, monitor: _Monitor, stderr: Path, release: str
    ) -> None:
        self.release = release
        self._process = process
        self._monitor = monitor
        self._stderr = stderr
        self._between: list[dict[str, Any]] = []

    async def say(self, line: str) -> Said:
        """Send a line; return what came for it. Raises ``SilentError``."""
        said = Said()
        sent = [line.encode("utf-8", "surrogateescape")]
        looked = False
        lacking = ANSWER
        try:
            async with asyncio.timeout(TIMEOUT_S):
                while True:
                    [reply] = await self._ask([*sent, _QUERY_JOBS], 1, said)
                    sent = []
                    lacking = REST
                    jobs = json.loads(reply).get("return", [])
                    if not (_at_rest(jobs, _settled_by(line, said)) and _is_gone(line, said)):
                        await asyncio.sleep(POLL_S)
                    elif looked or not _follows(jobs):
                        return said
                    else:
                        await asyncio.sleep(MIRROR_SLICE_S)
                        looked = True
        except (OSError, TimeoutError) as error:
            raise await self._silence(lacking) from error

    async def query(self, queries: Sequence[bytes]) -> list[bytes]:
        """Return the replies to messages made by ``query``. Raises ``SilentError``."""
        try:
            async with asyncio.timeout(TIMEOUT_S):
                between = Said(events=self._between)
                return await self._ask(queries, len(queries), between)
        except (OSError, TimeoutError) as error:
            raise await self._silence() from error

    def between(self) -> list[dict[str, Any]]:
        """Return the events that came with the replies to queries since the last call."""
        events, self._between = self._between, []
        return events

    async def quit(self) -> list[dict[str, Any]]:
        """End the program; return its last events. Raises ``SilentError``."""
        events: list[dict[str, Any]] = []
        try:
            async with asyncio.timeout(TIMEOUT_S):
                await self._monitor.send(b'{"execute": "quit"}')
                with suppress(ConnectionError):  # it has ended with something unread
                    while (line := await self._monitor.receive()) is not None:
                        message = json.loads(line)
                        events += [message] if "event" in message else []
                status = await self._process.wait()
        except (OSError, TimeoutError) as error:
            raise await self._silence() from error
        if status:
            raise await self._silence()
        return events

    async def _silence(self, lacking: str = ANSWER) -> SilentError:
        """Return why the program does not answer, or its jobs do not rest."""
        try:
            async with asyncio.timeout(DEATH_S):
                status = await self._process.wait()
        except TimeoutError:
            return SilentError(f"no {lacking} within {TIMEOUT_S} s")
        last_words = self._stderr.read_text(errors="replace").strip().rpartition("\n")[2]
        return SilentError(f"{ENDED}{status}: {last_words}")

    async def _ask(self, lines: Sequence[bytes], count: int, said: Said) -> list[bytes]:
        """Send lines; return the replies to ``count`` of our own; note what else comes before."""
        await self._monitor.send(b"\n".join(lines))
        replies: list[bytes] = []
        while len(replies) < count:
            received = await self._monitor.receive()
            if received is None:
                raise ConnectionError
            if _OWN_REPLY in received:
                replies.append(received)
                continue
            message = json.loads(received)
            (said.events if "event" in message else said.replies).append(message)
        return replies


def query(name: str, /, **arguments: Any) -> bytes:
    """Return a message of our own. It is short: QEMU's monitor reads it byte by byte."""
    message = {"execute": name, "id": OWN} | ({"arguments": arguments} if arguments else {})
    return encode_text(message).encode()


def _is_gone(line: str, said: Said) -> bool:
    """Whether what a line has deleted is gone: QEMU replies before it is."""
    if name_of(line) != "device_del" or not any("return" in reply for reply in said.replies):
        return True
    return any(event["event"] == "DEVICE_DELETED" for event in said.events)


def _follows(jobs: Sequence[dict[str, Any]]) -> bool:
    """Whether a job copies what a guest writes, which QEMU's finds out only later."""
    return any(job["status"] == "ready" for job in jobs)


def _at_rest(jobs: Sequence[dict[str, Any]], settling: str | None) -> bool:
    """Whether no job does anything; the one that is ``settling`` rests or has ended, if it can."""
    slow = any(job["id"].startswith(SLOW) for job in jobs)
    return all(
        job["status"] in AT_REST
        or (slow and job["status"] == "waiting")  # for a slow one of its transaction
        or (job["id"] != settling and (_is_slow(job) or _is_settled(job)))
        for job in jobs
    )


def _is_settled(job: dict[str, Any]) -> bool:
    """Whether a mirror has copied all that was written so far."""
    return bool(job["status"] == "ready" and job["current-progress"] == job["total-progress"])


def _is_slow(job: dict[str, Any]) -> bool:
    """Whether a job waits for its next turn, or for what a guest does."""
    return bool(
        job["id"] == ENDLESS
        or (job["id"].startswith(SLOW) and 0 < job["current-progress"] < job["total-progress"])
    )


def _settled_by(line: str, said: Said) -> str | None:
    """Return the job that a line has cancelled, completed or paused."""
    if not any("return" in reply for reply in said.replies):
        return None
    name = name_of(line)
    if name in SETTLING:
        arguments = json.loads(line)["arguments"]
        return str(arguments.get("id", arguments.get("device")))
    words = str(json.loads(line)["arguments"].get("command-line")).split() if name == HMP else []
    return words[-1] if words[:1] and words[0] in SETTLING_FOR_PEOPLE else None


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
            process_group=0,
            preexec_fn=partial(die_with_parent, signal.SIGKILL, os.getpid()),
        )
    try:
        with socket.socket(socket.AF_UNIX) as connection:
            await _connect(connection, process, directory)
            monitor = _Monitor(connection)
            release = _release_in(await monitor.receive())
            emulator = Emulator(process, monitor, directory / STDERR, release)
            await emulator.say('{"execute": "qmp_capabilities"}')
            yield emulator
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()


def _release_in(greeting: bytes | None) -> str:
    if greeting is None:
        raise StartError("the program does not start: it has closed its monitor")
    version = json.loads(greeting)["QMP"]["version"]["qemu"]
    return f"{version['major']}.{version['minor']}"


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
