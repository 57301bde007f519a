"""What one more costs when there are many already: nodes, bitmaps, jobs, exports, monitors.

With 10, 100 and 1,000 of a kind in a server (bitmaps: 10,000) one more is made and removed, some
times. The figure is the server's processor time for one more, so the machine's other work is not in
it. It must not grow with how many there are; ``growth`` is what it takes with the most, divided by
what it takes with the fewest, and the slope is what each one that is there adds.

A monitor costs what a command takes that another client sends: their number must not be felt. The
number of clients is bounded in blkxact (256); QEMU has a socket for each.
"""

from __future__ import annotations

import contextlib
import json
import resource
import socket
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

from .harness import BenchError, Figure, Server, Settings, encode

NUMBERS = (10, 100, 1000)
MORE = 20
"""How often one more is made and removed."""
COMMANDS = 20
"""Commands that count as one more monitor."""
SIZE = 1 << 20
UNIT = "us of processor"
MOST_GROWTH = 1.5
"""It must not grow; so much is noise."""


def run(settings: Settings) -> list[Figure]:
    """Measure every kind; each in a server of its own."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    figures: list[Figure] = []
    for kind in KINDS:
        settings.report(f"one more {kind.name}")
        figures += _measure(settings, kind)
    return figures


def _measure(settings: Settings, kind: type[Kind]) -> list[Figure]:
    costs = {
        number: Figure(f"one more {kind.name} beside {number:,}", UNIT, more_is_better=False)
        for number in kind.numbers
    }
    for name in settings.servers:
        with contextlib.ExitStack() as stack:
            options = kind.options(settings.directory)
            server = stack.enter_context(Server(name, settings.directory, options))
            these = kind(server, settings.directory, stack)
            there = 0
            for number, figure in costs.items():
                for each in range(there, number):
                    these.add(each)
                there = number + 1  # what one more needed is there
                for cost in _one_more(server, these, number):
                    figure.add(name, cost * 1e6)
    return [*costs.values(), *_growth(kind, costs, settings)]


def _one_more(server: Server, these: Kind, number: int) -> Iterator[float]:
    these.prepare(number)
    these.one_more(number)  # the first may load what is needed
    for _ in range(MORE):
        before = server.run_seconds()
        these.one_more(number)
        yield server.run_seconds() - before


def _growth(kind: type[Kind], costs: dict[int, Figure], settings: Settings) -> list[Figure]:
    title = f"one more {kind.name}: growth"
    growth = Figure(title, "x", more_is_better=False, limit=MOST_GROWTH)
    slope = Figure(f"one more {kind.name}: slope", "ns for each", more_is_better=False)
    fewest, most = min(costs), max(costs)
    for name in settings.servers:
        few, many = costs[fewest].median(name), costs[most].median(name)
        if few and many:
            growth.add(name, many / few)
            slope.add(name, max(many - few, 0.0) * 1000 / (most - fewest))
    return [growth, slope]


class Kind(ABC):
    """Things of one kind in a server. ``add(n)`` makes the n-th, which stays."""

    name: ClassVar[str]
    numbers: ClassVar[tuple[int, ...]] = NUMBERS

    def __init__(self, server: Server, directory: Path, stack: contextlib.ExitStack) -> None:
        self.server = server
        self.directory = directory
        self.stack = stack

    @classmethod
    def options(cls, directory: Path) -> list[str]:
        """Return further options of the server."""
        del directory
        return []

    @abstractmethod
    def add(self, number: int) -> None:
        """Make one that stays."""

    @abstractmethod
    def one_more(self, number: int) -> None:
        """Make one, and remove it again."""

    def prepare(self, number: int) -> None:  # noqa: B027 - most need nothing
        """Make what the n-th needs."""

    def add_null(self, name: str, size: int = SIZE) -> None:
        """Add a node that holds nothing."""
        self.server.execute("blockdev-add", driver="null-co", node_name=name, size=size)

    def until(self, event: str, command: str, **arguments: object) -> None:
        """Execute a command and wait for its reply and for an event, whichever comes first."""
        self.server.send(encode(command, arguments))
        waiting = {"return", event}
        while waiting:
            message = json.loads(self.server.receive())
            if "error" in message:
                raise BenchError(f"{self.server.name}: {command}: {message['error']['desc']}")
            waiting -= {"return" if "return" in message else message.get("event")}


class _Nodes(Kind):
    name = "node"

    def add(self, number: int) -> None:
        self.add_null(f"n{number}")

    def one_more(self, number: int) -> None:
        self.add(number)
        self.server.execute("blockdev-del", node_name=f"n{number}")


class _Bitmaps(Kind):
    name = "bitmap"
    numbers = (*NUMBERS, 10_000)

    def add(self, number: int) -> None:
        if not number:
            self.add_null("disk")
        self.server.execute("block-dirty-bitmap-add", node="disk", name=f"b{number}")

    def one_more(self, number: int) -> None:
        self.add(number)
        self.server.execute("block-dirty-bitmap-remove", node="disk", name=f"b{number}")


class _Exports(Kind):
    name = "export"

    def add(self, number: int) -> None:
        if not number:
            path = str(self.directory / f"{self.server.name}.nbd")
            address = {"type": "unix", "data": {"path": path}}
            self.server.execute("nbd-server-start", addr=address)
            self.add_null("disk")
        self.server.execute(
            "block-export-add", type="nbd", id=f"e{number}", node_name="disk", name=f"e{number}"
        )

    def one_more(self, number: int) -> None:
        self.add(number)
        self.until("BLOCK_EXPORT_DELETED", "block-export-del", id=f"e{number}")


class _Jobs(Kind):
    """Backups that run, slowly: each has copied its first piece and waits for the next."""

    name = "job"

    def add(self, number: int) -> None:
        self.prepare(number)
        self._start(number)

    def prepare(self, number: int) -> None:
        for name in (f"source{number}", f"target{number}"):
            self.add_null(name, 64 * SIZE)

    def _start(self, number: int) -> None:
        source, target = f"source{number}", f"target{number}"
        self.server.execute(
            "blockdev-backup", device=source, target=target, job_id=source, sync="full", speed=1
        )

    def one_more(self, number: int) -> None:
        self._start(number)
        self.until("BLOCK_JOB_CANCELLED", "block-job-cancel", device=f"source{number}", force=True)


class _Monitors(Kind):
    """Connected clients; what is measured is a command of another one."""

    name = "monitor"
    numbers = (10, 100, 250)

    @classmethod
    def options(cls, directory: Path) -> list[str]:
        words = []
        for number in range(cls.numbers[-1]):
            path = directory / f"m{number}"
            words += ["--chardev", f"socket,id=m{number},path={path},server=on,wait=off"]
            words += ["--monitor", f"chardev=m{number}"]
        return words

    def add(self, number: int) -> None:
        client = self.stack.enter_context(socket.socket(socket.AF_UNIX))
        client.connect(str(self.directory / f"m{number}"))
        client.sendall(encode("qmp_capabilities"))
        reader = self.stack.enter_context(client.makefile("rb"))
        while not reader.readline().startswith(b'{"return"'):
            pass

    def one_more(self, number: int) -> None:
        del number
        for _ in range(COMMANDS):
            self.server.execute("query-version")


KINDS: tuple[type[Kind], ...] = (_Nodes, _Bitmaps, _Exports, _Jobs, _Monitors)
