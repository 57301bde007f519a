"""The daemon as a process, and a client that remembers every event.

Invariants:

* Nothing sleeps. What is waited for is an event (``hear``), or an answer that a query gives
  (``until``: the round trips set the pace); both end with an assertion after ``PATIENCE_S``.
* A job is held in the middle by ``speed=1``: its first piece goes, the next is hours away, and
  ``block-job-set-speed`` lets it go on. No test depends on how fast a machine is.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Self

from qemu.qmp import ExecuteError, Message, QMPClient, QMPError

PATIENCE_S = 20
HELD = 1
"""A speed at which a job copies its first piece and then holds."""

Json = dict[str, Any]

_STARTED = time.monotonic()


def say(text: str) -> None:
    """Tell the person who watches; pytest shows it when a scenario fails."""
    print(f"  {time.monotonic() - _STARTED:7.3f}  {text}", flush=True)


def wire(members: Json) -> Json:
    """Return members as they are named on the wire: ``job_id`` is ``job-id``."""
    return {name.replace("_", "-"): value for name, value in members.items()}


def action(kind: str, **data: Any) -> Json:
    """Return one action of a transaction."""
    return {"type": kind, "data": wire(data)}


class Daemon:
    """``blkxact serve`` as a process, with its socket and log in ``directory``.

    A context manager; at its end the process is gone, however the scenario went.
    """

    def __init__(self, directory: Path, *words: str) -> None:
        self.socket = directory / "qmp.sock"
        self.log = directory / "qmp.log"
        self.console = directory / "qmp.out"
        command = [sys.executable, "-m", "blkxact", "serve", "--qmp", str(self.socket), *words]
        with self.log.open("wb") as log, self.console.open("wb") as console:
            self.process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=console, stderr=log
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        if exception[0] is not None and self.text():
            say(f"the daemon said: {self.text()}")

    def text(self) -> str:
        """Return what the daemon has said on its standard error."""
        return self.log.read_text(errors="replace")

    def files(self) -> list[str]:
        """Return what the daemon has open, but for sockets and the loop's own descriptors."""
        found = []
        for descriptor in Path(f"/proc/{self.process.pid}/fd").iterdir():
            with contextlib.suppress(FileNotFoundError):
                found.append(str(descriptor.readlink()))
        return sorted(one for one in found if one.startswith("/") and not one.startswith("/dev/"))

    @asynccontextmanager
    async def client(self, name: str = "client") -> AsyncIterator[Client]:
        """Connect, as soon as the daemon listens."""
        client = Client(name)
        await self._connect(client)
        try:
            yield client
        finally:
            await client.leave()

    @asynccontextmanager
    async def rude_client(self) -> AsyncIterator[Callable[[str, Json], Awaitable[None]]]:
        """Connect, and hang up at the end without reading what was answered.

        Inside, ``await send(command, arguments)`` sends a command. (All before that is read: a
        socket closed with bytes unread is reset, and takes what it sent with it.)
        """
        reader, writer = await asyncio.open_unix_connection(str(self.socket))

        async def send(command: str, arguments: Json) -> None:
            writer.write(json.dumps({"execute": command, "arguments": arguments}).encode())
            await writer.drain()

        try:
            await reader.readline()
            await send("qmp_capabilities", {})
            await reader.readline()
            yield send
        finally:
            writer.close()

    async def _connect(self, client: Client) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while True:
            status = self.process.poll()
            assert status is None, f"the daemon ended with {status}: {self.text()}"
            assert time.monotonic() < deadline, f"the daemon does not listen: {self.text()}"
            if self.socket.exists():
                with contextlib.suppress(QMPError):
                    await client.qmp.connect(str(self.socket))
                    return
            # Not there yet; let the process have the processor instead of asking again at once.
            await asyncio.to_thread(self._yield_to_daemon)

    def _yield_to_daemon(self) -> None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(0.01)

    async def ended(self) -> int:
        """Wait for the end of the process; return its exit status."""
        return await asyncio.to_thread(self.process.wait, PATIENCE_S)

    async def end(self, number: signal.Signals) -> int:
        """Send a signal and wait for the end."""
        say(f"{number.name} to the daemon")
        self.process.send_signal(number)
        return await self.ended()


class QuietClient(QMPClient):
    """qemu.qmp's client, without the text of every message for a log that nobody reads."""

    def _cb_inbound(self, msg: Message) -> Message:
        return msg

    def _cb_outbound(self, msg: Message) -> Message:
        return msg


class Client:
    """One QMP session. ``heard`` has every event since it began."""

    def __init__(self, name: str) -> None:
        logging.getLogger(f"qemu.qmp.protocol.{name}").setLevel(logging.CRITICAL)
        logging.getLogger("qemu.qmp").setLevel(logging.CRITICAL)
        self.name = name
        self.qmp = QuietClient(name)
        self._heard: list[Json] = []
        self._mark = 0

    async def leave(self) -> None:
        """Disconnect; how the daemon left is of no interest any more."""
        with contextlib.suppress(QMPError, EOFError, OSError):
            await self.qmp.disconnect()

    # Commands

    async def run(self, command: str, **arguments: Any) -> Any:
        """Return what a command returns; its refusal is the scenario's failure."""
        async with asyncio.timeout(PATIENCE_S):
            return await self.qmp.execute(command, wire(arguments))

    async def refused(self, command: str, **arguments: Any) -> str:
        """Return the text of the error that a command must give."""
        try:
            answer = await self.run(command, **arguments)
        except ExecuteError as error:
            return str(error)
        raise AssertionError(f"{command} was not refused: {answer}")

    async def transaction(
        self, *actions: Json, mode: str | None = None, txn: str | None = None
    ) -> None:
        """Run a transaction."""
        await self.run("transaction", **_transaction(actions, mode, txn))

    async def refused_transaction(
        self, *actions: Json, mode: str | None = None, txn: str | None = None
    ) -> str:
        """Return the text of the error that a transaction must give."""
        return await self.refused("transaction", **_transaction(actions, mode, txn))

    async def guest(self, device: str, line: str) -> str:
        """Make a request as the guest; return what qemu-io says."""
        text = await self.run("human-monitor-command", command_line=f'qemu-io -d {device} "{line}"')
        return str(text).replace("\r\n", "\n")

    async def release(self, job: str) -> None:
        """Let a held job go on."""
        await self.run("block-job-set-speed", device=job, speed=0)

    async def block_job(self, job: str) -> Json | None:
        """Return BlockJobInfo, or None when there is no such job."""
        jobs = await self.run("query-block-jobs")
        return next((info for info in jobs if info["device"] == job), None)

    async def held(self, *jobs: str) -> None:
        """Wait until these jobs have copied something and hold."""
        for job in jobs:

            async def copied(job: str = job) -> bool:
                info = await self.block_job(job)
                return info is not None and info["offset"] > 0

            await self.until(f"{job} has copied something", copied)

    # Waiting

    async def until(self, what: str, holds: Callable[[], Awaitable[bool]]) -> None:
        """Ask until the answer is yes."""
        try:
            async with asyncio.timeout(PATIENCE_S):
                while not await holds():
                    pass
        except TimeoutError:
            raise AssertionError(f"not so after {PATIENCE_S} s: {what}") from None

    async def hear(self, event: str, **data: Any) -> Json:
        """Return the data of the first such event since the mark; wait for it if need be."""
        wanted = wire(data).items()
        position = self._mark
        try:
            async with asyncio.timeout(PATIENCE_S):
                while True:
                    for one in self.heard[position:]:
                        found = one.get("data", {})
                        if one["event"] == event and wanted <= _plain(found).items():
                            return found
                    position = len(self._heard)
                    self._heard.append(await self.qmp.events.get())
        except TimeoutError:
            raise AssertionError(f"no {event} {data} among {self.names()}") from None

    def mark(self) -> None:
        """Leave out, from here on, what was heard so far."""
        self._mark = len(self.heard)

    @property
    def heard(self) -> list[Json]:
        """All events so far."""
        self._heard += self.qmp.events.clear()
        return self._heard

    def names(self, *kinds: str) -> list[str]:
        """Return the names of the events since the mark, of some kinds only or of all."""
        names = [str(one["event"]) for one in self.heard[self._mark :]]
        return [name for name in names if not kinds or name in kinds]

    def data(self, event: str) -> list[Json]:
        """Return the data of each such event since the mark."""
        return [one.get("data", {}) for one in self.heard[self._mark :] if one["event"] == event]

    def statuses(self, job: str) -> list[str]:
        """Return what JOB_STATUS_CHANGE told of a job since the mark."""
        return [one["status"] for one in self.data("JOB_STATUS_CHANGE") if one["id"] == job]


def _transaction(actions: tuple[Json, ...], mode: str | None, txn: str | None) -> Json:
    properties = {"completion-mode": mode, "id": txn}
    properties = {name: value for name, value in properties.items() if value is not None}
    arguments: Json = {"actions": list(actions)}
    return arguments | ({"properties": properties} if properties else {})


def _plain(data: Json) -> Json:
    """Return the members that can be compared as a set."""
    return {name: value for name, value in data.items() if not isinstance(value, (list, dict))}
