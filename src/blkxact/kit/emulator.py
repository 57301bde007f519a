"""The emulator that the fixture ``blkxact`` is.

Invariants:

* Disks are in the test's directory, and stay there when the emulator is killed or ends.
* What is there once it has started, and each disk that is added, belongs to the test's start;
  ``close`` reports all else that is left at its end.
* All methods can be called from any thread; none may be called from the emulator's own.
"""

from __future__ import annotations

import asyncio
import inspect
import shutil
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final, TypeVar

from blkxact.block_layer import BlockLayer
from blkxact.blockdev.image_create import create_image
from blkxact.cli.shim import write_shims
from blkxact.commands import Dispatcher
from blkxact.daemon import Daemon
from blkxact.errors import QmpError
from blkxact.harness import Disk
from blkxact.image_tools.open_images import open_images
from blkxact.storage.descriptors import Descriptors

from .clock import AdvancingClock, Clock
from .contents import Contents
from .errors import KitError
from .events import Events
from .faults import Faults
from .guest import Guest, find_disk
from .leaks import Inventory, check_images, take_inventory
from .options import DEFAULT_SIZE, KitOptions, read_size
from .pause import KilledError, Pause, Pauses, Steps
from .places import Posts, find_place
from .programs import end_processes, make_directory
from .run import Run
from .storage import KitStorage
from .sweep import Sweep, own

T = TypeVar("T")

SETTLE_S: Final = 1.0
"""Seconds in which what is about to end at the end of a test may do so."""
POLL_S: Final = 0.005


class Emulator:
    """A QEMU without the machine, on a socket, in a thread of this process."""

    def __init__(
        self, directory: Path, options: KitOptions | None = None, sweep: Sweep | None = None
    ) -> None:
        """Start it. ``directory`` is where its disks go; ``sweep`` is for ``every_fault``."""
        self._sweep = sweep
        self._directory = directory
        self._options = options or KitOptions()
        self._sockets = make_directory(directory)
        self._disks: dict[str, Disk] = {}
        self._paths: set[str] = set()
        self._lost_caches = False
        """It was killed: images may have leaked clusters."""
        self._torn: set[str] = set()
        """Images that a power failure may have left unfinished; not the disks."""
        self._clock = AdvancingClock()
        self._at_start: Inventory
        self._dispatcher: Dispatcher
        self._run: Run | None = None
        self.guest = Guest(self._own)
        """Whoever uses the disks: ``write``, ``read``, ``discard``..."""
        self.events = Events()
        """All events since the start, also those before a restart."""
        self.clock = Clock(self._call, lambda: self._clock)
        """``advance(seconds)`` lets time pass at once."""
        self._posts = Posts()
        self._steps = Steps(self._posts)
        self._pauses = Pauses(self._posts, self._die, self._interrupt)
        self.faults = Faults(self._posts, self._die_here)
        """What is to fail: ``at("target.write", nth=3)``."""
        self._start()
        for name, size in self._options.sizes.items():
            self.disk(name, size)

    # What a tool connects to

    @property
    def qmp(self) -> str:
        """The path of the QMP socket."""
        return str(self._sockets / "qmp")

    @property
    def nbd(self) -> str | None:
        """Where the NBD server takes clients, if it runs: ``unix:PATH``, ``tcp:HOST:PORT``."""
        return self._look(lambda layer: layer.nbd_address)

    def system(self) -> Path:
        """Return a directory for ``PATH`` with QEMU's programs, for a tool that starts them itself.

        They run as processes of their own, which this emulator and its checks know nothing of.
        """
        directory = self._sockets / "bin"
        write_shims(directory)
        return directory

    # The test's own look

    def disk(self, name: str, size: str | int = DEFAULT_SIZE) -> Disk:
        """Return the disk of that name; a new one is made, and plugged into the guest.

        Its node has the name ``name``. ``size`` is for a new one, in bytes or as ``64M``.
        """
        if name not in self._disks:
            path = self._directory / f"{name}.qcow2"
            disk = Disk(name, path, read_size(name, size))
            self._own(lambda layer: self._plug(layer, disk))
            self._disks[name] = disk
        return self._disks[name]

    def execute(self, command: str, /, **arguments: Any) -> Any:
        """Run a QMP command and return its result, as a client does, but without a connection.

        Names of arguments have underscores for dashes. Raises ``QmpError``.
        """
        members = {name.replace("_", "-"): value for name, value in arguments.items()}

        async def run(_layer: BlockLayer) -> Any:
            result = self._dispatcher.execute(command, members)
            return await result if inspect.isawaitable(result) else result

        if self._dispatcher.lookup(command) is None:
            raise KitError(f"there is no command {command!r}")
        return self._call(run)

    def contents(self, disk: str | Path, offset: int = 0, length: int | None = None) -> Contents:
        """Return what a disk holds now, by its name, or an image by its path.

        ``length`` None: up to the end. An image is read as it is on the file system, backing files
        included; nobody may write to it meanwhile.
        """
        if isinstance(disk, Path):
            return Contents(_apart(lambda: _read_image(disk, offset, length)))

        async def read(layer: BlockLayer) -> bytes:
            backend = find_disk(layer, disk)
            size = backend.length - offset if length is None else length
            return bytes(await backend.pread(offset, size))

        return Contents(self._own(read))

    def dirty(self, disk: str, bitmap: str) -> list[tuple[int, int]]:
        """Return the dirty ranges of a bitmap, in order: offset and length in bytes."""

        def look(layer: BlockLayer) -> list[tuple[int, int]]:
            _, found = layer.find_bitmap(disk, bitmap)
            return list(found.runs())

        return self._look(look)

    # What is to happen within

    def pause_at(self, place: str, *, nth: int = 1, **facts: Any) -> Pause:
        """Return a context in which the emulator stands still at a place, the ``nth`` time.

        It goes on when the context is left. ``wait`` returns once it stands there. ``place`` is as
        for ``faults.at``, and may also be one where nothing can fail.
        """
        return Pause(self._pauses, find_place(place, facts), nth)

    def step(self, job: str) -> bool:
        """Let a job do one piece of its work and stand again; return False once the work is done.

        The first call holds the job at the end of its piece; one before the job is started, before
        its first.
        """
        return self._call(lambda layer: self._steps.step(layer, job))

    def release(self, job: str) -> None:
        """Let a job that ``step`` holds go on by itself."""
        self._call(lambda _layer: self._steps.release(job))

    # Its end, and what comes after

    def kill(self) -> None:
        """End it as ``kill -9`` does: what it had not written is gone, and bitmaps in use with it.

        What was written and not flushed is in the page cache, and stays.
        """
        run = self._running()
        if not self._pauses.kill():
            run.kill()
        run.join()
        self._lost_caches = True
        self._collect()

    def lose_power(self, seed: int = 0) -> list[Path]:
        """End it as a power failure does: each write that was not flushed is there, gone or torn.

        ``seed`` decides which. An emulator that has just been killed, by ``faults.kill_at`` or
        ``kill``, loses power at that moment. Returns the files that it changed. It takes
        ``@pytest.mark.blkxact(loses_power=True)``.
        """
        if not self._options.loses_power:
            raise KitError("lose_power() takes @pytest.mark.blkxact(loses_power=True)")
        if self._run is None or not self._run.killed:
            self.kill()
        assert self._run is not None
        changed = self._run.lose_power(seed)
        self._torn |= set(changed) - {str(disk.path) for disk in self._disks.values()}
        return [Path(path) for path in changed]

    def stop(self) -> None:
        """End it in good order, as SIGTERM does; its bitmaps are stored."""
        run = self._running()
        self._let_go()
        run.stop()
        self._collect()
        if run.errors:
            raise KitError("; ".join(run.errors))

    def restart(self) -> None:
        """Start it again with the same options and disks; one that runs is stopped first."""
        if self._run is not None and self._run.alive:
            self.stop()
        self._start()

    def close(self) -> list[str]:
        """End it; return what the test has left behind, and what else is wrong."""
        problems: list[str] = []
        run = self._run
        self.faults.clear()
        if self._sweep is not None:
            self._sweep.end()
        if run is not None and run.alive:
            self._let_go()
            problems += self._call(self._leftovers)
            run.stop()
            problems += run.errors
            self._collect()
        left = end_processes(self._sockets / "bin")
        problems += [] if "process" in self._options.leftovers else left
        written = map(Path, sorted(self._paths - self._torn))
        paths = [path for path in written if path.is_file()]
        problems += _apart(lambda: check_images(paths, leaks=not self._lost_caches))
        shutil.rmtree(self._sockets, ignore_errors=True)
        return problems

    # Within

    def _start(self) -> None:
        self._clock = AdvancingClock()
        options = self._options.serve_options(self.qmp, list(self._disks.values()))
        self._steps.forget()
        self._run = Run(
            options,
            self._clock,
            self._prepare,
            lambda: self._pauses.where,
            KitStorage(Descriptors(), loses_power=self._options.loses_power),
        )
        self._at_start = self._look(take_inventory)

    def _prepare(self, daemon: Daemon) -> None:
        """Get ready for an emulator that is about to start (in its thread)."""
        layer = daemon.layer
        layer.events.subscribe(self.events.add)
        self._dispatcher = Dispatcher(layer)
        self._posts.begin(layer)
        if self._sweep is not None:
            self._sweep.begin(layer)
        self._clock.requests = lambda: layer.statistics().requests

    def _let_go(self) -> None:
        """Let everything go on that stands still."""
        self._pauses.go_on()
        self._call(lambda _layer: self._steps.release_all())

    def _die(self) -> None:
        assert self._run is not None
        self._lost_caches = True
        self._run.die()

    def _die_here(self) -> None:
        """End the emulator at a point (in its thread)."""
        self._die()
        raise KilledError

    def _interrupt(self, thread: int, where: str) -> None:
        assert self._run is not None
        self._run.interrupt(thread, where)

    def _running(self) -> Run:
        assert self._run is not None
        if not self._run.alive:
            raise KitError("the emulator does not run; restart() starts it again")
        return self._run

    def _collect(self) -> None:
        assert self._run is not None
        self._paths |= self._run.storage.paths
        self._torn -= self._run.storage.paths

    def _call(self, work: Callable[[BlockLayer], Awaitable[T]]) -> T:
        run = self._running()
        return run.call(lambda: work(run.layer))

    def _own(self, work: Callable[[BlockLayer], Awaitable[T]]) -> T:
        """Do work that is the test's own, and not the tool's."""

        async def run(layer: BlockLayer) -> T:
            own.set(True)
            return await work(layer)

        return self._call(run)

    def _look(self, look: Callable[[BlockLayer], T]) -> T:
        async def run(layer: BlockLayer) -> T:
            return look(layer)

        return self._call(run)

    async def _plug(self, layer: BlockLayer, disk: Disk) -> None:
        await create_image(layer.blockdev, str(disk.path), disk.format, size=disk.size)
        await self._execute("blockdev-add", disk.blockdev())
        if self._options.has_devices:
            await self._execute("device_add", disk.device_add())
        else:
            find_disk(layer, disk.name)
        self._at_start = self._at_start.with_those_of(disk.name, take_inventory(layer))

    async def _execute(self, command: str, members: dict[str, Any]) -> None:
        result = self._dispatcher.execute(command, members)
        if inspect.isawaitable(result):
            await result

    async def _leftovers(self, layer: BlockLayer) -> list[str]:
        clock = self._clock
        end = clock.monotonic() + SETTLE_S
        while True:
            found = list(take_inventory(layer).beyond(self._at_start))
            left = [said for kind, said in found if kind not in self._options.leftovers]
            if not left or clock.monotonic() > end:
                return left
            await clock.sleep(POLL_S)


async def _read_image(path: Path, offset: int, length: int | None) -> bytes:
    async with open_images() as images:
        try:
            backend = await images.open(str(path), force_share=True)
        except QmpError as error:
            raise KitError(str(error)) from error
        size = backend.length - offset if length is None else length
        return bytes(await backend.pread(offset, size))


def _apart(work: Callable[[], Awaitable[T]]) -> T:
    """Return what ``work`` does in a loop of its own, though this thread may have a running one."""

    async def run() -> T:
        return await work()

    with ThreadPoolExecutor(1) as thread:
        return thread.submit(lambda: asyncio.run(run())).result()
