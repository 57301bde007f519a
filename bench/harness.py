"""Servers, a raw QMP client, and samples: what every subject of the bench uses.

Invariants:

* Both servers are driven by the same client over a Unix socket, with the same bytes.
* Turns alternate, so that a slow minute of the machine hits both.
* A wrong result makes a figure void: every reply is checked.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

START_SECONDS = 20
REPLY_SECONDS = 600
READ_SIZE = 65536
QUERY_PAUSE = 0.001
"""Seconds between two questions while a job runs."""
JIFFIES_PER_SECOND = os.sysconf("SC_CLK_TCK")

QEMU = "qemu-storage-daemon"
BLKXACT = "blkxact"
COMMANDS = {
    QEMU: [QEMU],
    BLKXACT: [sys.executable, "-m", "blkxact", "serve"],
}


class BenchError(Exception):
    """A server did not do what was asked: no figure."""


@dataclass
class Figure:
    """What one subject measured, for each server by its name."""

    name: str
    unit: str
    more_is_better: bool
    samples: dict[str, list[float]] = field(default_factory=dict)
    must: float | None = None
    """What ``ratio`` has to be at the least (issue 13)."""
    limit: float | None = None
    """What blkxact's median may be at the most, in ``unit`` (issue 13)."""

    def add(self, server: str, value: float) -> None:
        """Take one sample."""
        self.samples.setdefault(server, []).append(value)

    def median(self, server: str) -> float | None:
        """Return the median of a server's samples, if it has any."""
        values = self.samples.get(server)
        return statistics.median(values) if values else None

    def ratio(self) -> float | None:
        """Return how many times better blkxact is, if both were measured.

        Where their samples were taken in turns it is the median of the pairs: a slow minute of the
        machine is in both of a pair.
        """
        ratios = self.ratios()
        if ratios:
            return statistics.median(ratios)
        ours, theirs = self.median(BLKXACT), self.median(QEMU)
        return self._ratio(ours, theirs) if ours and theirs else None

    def ratios(self) -> list[float]:
        """Return the ratio of each pair of samples; none if they are no pairs."""
        ours, theirs = self.samples.get(BLKXACT, []), self.samples.get(QEMU, [])
        if len(ours) != len(theirs) or not all((*ours, *theirs)):
            return []
        return [self._ratio(one, other) for one, other in zip(ours, theirs, strict=True)]

    def is_missed(self) -> bool:
        """Return whether the figure is not what issue 13 asks for."""
        ratio, ours = self.ratio(), self.median(BLKXACT)
        too_slow = self.must is not None and ratio is not None and ratio < self.must
        return too_slow or (self.limit is not None and ours is not None and ours > self.limit)

    def _ratio(self, ours: float, theirs: float) -> float:
        return ours / theirs if self.more_is_better else theirs / ours


@dataclass(frozen=True)
class Settings:
    """What the person asked for."""

    size: int
    """Bytes of data in the backup subjects."""
    turns: int
    directory: Path
    """An empty directory for images and sockets."""
    servers: tuple[str, ...]
    report: Callable[[str], None]
    quick: bool = False
    """Only what issue 13 lists, in few minutes."""


class Server:
    """One running server and one connection to it."""

    def __init__(self, name: str, directory: Path, options: Sequence[str] = ()) -> None:
        self.name = name
        self._socket_path = directory / f"{name}.sock"
        self._log = (directory / f"{name}.log").open("w+b")
        chardev = f"socket,id=qmp,path={self._socket_path},server=on,wait=off"
        self._process = subprocess.Popen(
            [*COMMANDS[name], "--chardev", chardev, "--monitor", "chardev=qmp", *options],
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
            env=environment(),
        )
        try:
            self._connect()
        except BaseException:
            self.close()
            raise

    def _connect(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        self._socket = socket.socket(socket.AF_UNIX)
        while True:
            try:
                self._socket.connect(os.fspath(self._socket_path))
                break
            except OSError:
                if self._process.poll() is not None or time.monotonic() > deadline:
                    raise BenchError(f"{self.name} did not start: {self._last_words()}") from None
                time.sleep(0.01)
        self._socket.settimeout(REPLY_SECONDS)
        self._reader = self._socket.makefile("rb")
        self._reader.readline()  # the greeting
        self.execute("qmp_capabilities")

    def _last_words(self) -> str:
        self._log.flush()
        lines = Path(self._log.name).read_text(errors="replace").strip().splitlines()
        return lines[-1] if lines else "it said nothing"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """End the server."""
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(START_SECONDS)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        self._socket.close()
        self._log.close()
        self._socket_path.unlink(missing_ok=True)

    def round_trip(self, message: bytes) -> bytes:
        """Send ready-made bytes and return the line of the reply, unparsed; events are skipped."""
        self._socket.sendall(message)
        while True:
            line = self._reader.readline()
            if line.startswith((b'{"return"', b'{"error"')):
                return line
            if not line:
                raise BenchError(f"{self.name} closed the connection: {self._last_words()}")

    def repeat(self, message: bytes, count: int) -> None:
        """Send ``message`` ``count`` times, each after the reply to the one before.

        The client does as little as it can, so that the figure is the server's. No event may come.
        """
        send, receive = self._socket.sendall, self._socket.recv
        for _ in range(count):
            send(message)
            reply = receive(READ_SIZE)
            while not reply.endswith(b"\n"):
                more = receive(READ_SIZE)
                if not more:
                    raise BenchError(f"{self.name} closed the connection: {self._last_words()}")
                reply += more
            if not reply.startswith(b'{"return"'):
                raise BenchError(f"{self.name}: {reply!r}")

    def send(self, message: bytes) -> None:
        """Send ready-made bytes."""
        self._socket.sendall(message)

    def receive(self) -> bytes:
        """Return the next line, an event or a reply."""
        line = self._reader.readline()
        if not line:
            raise BenchError(f"{self.name} closed the connection: {self._last_words()}")
        return line

    def execute(self, command: str, **arguments: Any) -> Any:
        """Return what the command returned."""
        line = self.round_trip(encode(command, arguments))
        reply = json.loads(line)
        if "error" in reply:
            raise BenchError(f"{self.name}: {command}: {reply['error']['desc']}")
        return reply["return"]

    def run_job(self, command: str, *, jobs: int = 1, **arguments: Any) -> float:
        """Start block jobs, wait until all completed and return the seconds it took."""
        started = time.perf_counter()
        self._socket.sendall(encode(command, arguments))
        while True:
            message = json.loads(self._reader.readline() or "{}")
            if "error" in message or not message:
                raise BenchError(f"{self.name}: {command}: {message or 'connection closed'}")
            if message.get("event") == "BLOCK_JOB_COMPLETED":
                if "error" in message["data"]:
                    raise BenchError(f"{self.name}: {command}: {message['data']['error']}")
                jobs -= 1
                if not jobs:
                    return time.perf_counter() - started

    def timed(self, command: str, **arguments: Any) -> float:
        """Execute a command and return the seconds it took."""
        started = time.perf_counter()
        self.execute(command, **arguments)
        return time.perf_counter() - started

    def query_during_job(self, command: str, **arguments: Any) -> list[float]:
        """Run a block job and ask small questions meanwhile; return the seconds each took."""
        question = encode("query-version")
        waits: list[float] = []
        completed = False
        self._socket.sendall(encode(command, arguments))
        asked = 0.0
        while not completed or asked:
            message = json.loads(self._reader.readline() or "{}")
            if "error" in message or not message:
                raise BenchError(f"{self.name}: {command}: {message or 'connection closed'}")
            completed = completed or message.get("event") == "BLOCK_JOB_COMPLETED"
            if "return" not in message:
                continue
            if asked:
                waits.append(time.perf_counter() - asked)
                time.sleep(QUERY_PAUSE)
            asked = 0.0 if completed else time.perf_counter()
            if asked:
                self._socket.sendall(question)
        return waits

    def cpu_seconds(self) -> float:
        """Return the processor time that the server and its processes have used, in all modes.

        Those that it has waited for count, too.
        """
        ticks = sum(map(int, _stat(self._process.pid)[11:15]))
        ticks += sum(int(one) for pid in self._children() for one in _stat(pid)[11:15])
        return ticks / JIFFIES_PER_SECOND

    def run_seconds(self) -> float:
        """Return the processor time of the threads that there are, to the microsecond."""
        threads = Path(f"/proc/{self._process.pid}/task").iterdir()
        return sum(int((one / "schedstat").read_text().split()[0]) for one in threads) / 1e9

    def memory(self, member: str = "VmRSS") -> int:
        """Return resident bytes, its processes' too: now (``VmRSS``) or at the most (``VmHWM``)."""
        total = 0
        for pid in (self._process.pid, *self._children()):
            lines = Path(f"/proc/{pid}/status").read_text().splitlines()
            total += sum(int(line.split()[1]) * 1024 for line in lines if line.startswith(member))
        return total

    def _children(self) -> list[int]:
        found: list[int] = []
        for thread in Path(f"/proc/{self._process.pid}/task").iterdir():
            with contextlib.suppress(FileNotFoundError):  # a thread may have ended
                found += map(int, (thread / "children").read_text().split())
        return found

    def private_memory(self) -> int:
        """Return the resident bytes that no other process shares."""
        lines = Path(f"/proc/{self._process.pid}/smaps_rollup").read_text().splitlines()
        return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Private_"))


def _stat(pid: int) -> list[str]:
    """Return the fields of ``/proc/PID/stat`` after the name, which may hold anything."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def encode(command: str, arguments: dict[str, Any] | None = None) -> bytes:
    """Return the bytes of a command; ``_`` in names of arguments stands for ``-``."""
    message: dict[str, Any] = {"execute": command}
    if arguments:
        message["arguments"] = {name.replace("_", "-"): arguments[name] for name in arguments}
    return json.dumps(message).encode() + b"\n"


@contextlib.contextmanager
def servers(settings: Settings) -> Iterator[list[Server]]:
    """Start all servers, side by side; one that does not start is told of and left out."""
    with contextlib.ExitStack() as stack:
        running = []
        for name in settings.servers:
            try:
                running.append(stack.enter_context(Server(name, settings.directory)))
            except BenchError as error:
                settings.report(f"left out: {error}")
        yield running


def environment() -> dict[str, str]:
    """Return this process's environment, but for what keeps Python from caching compiled modules.

    An installed blkxact is compiled.
    """
    return {name: os.environ[name] for name in os.environ if name != "PYTHONDONTWRITEBYTECODE"}


def available_servers() -> tuple[str, ...]:
    """Return the servers that are on this machine."""
    return tuple(name for name, command in COMMANDS.items() if shutil.which(command[0]))


@contextlib.contextmanager
def one_processor() -> Iterator[None]:
    """Keep the client and the servers started meanwhile on one processor.

    In a serial exchange only one of the two works at a time. On two processors each message would
    also wake a sleeping one, which in a virtual machine can take longer than all the rest.
    """
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)
