"""qemu-io's requests that go on after the command: aio_read, aio_write; and aio_flush.

QEMU's counterpart: aio_read_f, aio_write_f, aio_flush_f in ``qemu-io-cmds.c``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from blkxact.block.accounting import Operation, nanoseconds
from blkxact.errors import strerror

from .io_requests import WRITE_PATTERN, done_text, filled, read_text, vector, write_flags
from .io_text import Done, IoRefusal, IoUsage, Options, mismatch, parse_number

if TYPE_CHECKING:
    from .io_session import IoSession


class AioRequest:
    """One request under way: what to say when it ends."""

    def __init__(self, session: IoSession, options: Options, offset: int, length: int) -> None:
        self.session = session
        self.guest = session.context.layer.guest
        self.options = options
        self.offset = offset
        self.length = length
        self.started = session.now()

    async def read(self, pattern: int | None) -> None:
        """Read to the end, compare, report."""
        try:
            data = await self.session.backend.pread(self.offset, self.length)
        except OSError as error:
            self.guest.tell_later(f"readv failed: {strerror(error)}\n")
            self._account(Operation.READ, failed=True)
            return
        self._account(Operation.READ)
        if pattern is not None:
            self.guest.tell_later(mismatch(data, self.offset, pattern))
        self.guest.tell_later(read_text(self.options, data, self.offset, self._seconds()))

    async def write(self, pattern: int) -> None:
        """Write to the end, report."""
        backend, flags = self.session.backend, write_flags(self.options)
        try:
            if "z" in self.options.flags:
                await backend.pwrite_zeroes(self.offset, self.length, flags)
            else:
                await backend.pwrite(self.offset, filled(pattern, self.length), flags)
        except OSError as error:
            self.guest.tell_later(f"aio_write failed: {strerror(error)}\n")
            self._account(Operation.WRITE, failed=True)
            return
        self._account(Operation.WRITE)
        done = Done("wrote", self.offset, self.length, self._seconds())
        self.guest.tell_later(done_text(self.options, done))

    def _account(self, operation: Operation, *, failed: bool = False) -> None:
        """Count it as a request of a device: qemu-io does so for these only, and not for zeroes."""
        if "z" in self.options.flags:
            return
        accounting = self.session.backend.accounting
        started, now = nanoseconds(self.started), nanoseconds(self.session.now())
        if failed:
            accounting.failed(operation, started, now)
        else:
            accounting.done(operation, self.length, started, now)

    def _seconds(self) -> float:
        return self.session.now() - self.started


async def aio_read(session: IoSession, words: list[str]) -> None:
    """``aio_read``: start a read."""
    options = Options(session.command, words, "CP:iqv")
    pattern = options.pattern(0) if "P" in options.values else None
    if "i" in options.flags:
        _account_invalid(session, Operation.READ)
        raise IoRefusal("injecting invalid read request\n")
    offset, length = vector(options)
    request = AioRequest(session, options, offset, length)
    await request.guest.start(session.backend, request.read(pattern))


async def aio_write(session: IoSession, words: list[str]) -> None:
    """``aio_write``: start a write."""
    options = Options(session.command, words, "CfiqP:uz")
    pattern = options.pattern(WRITE_PATTERN)
    if "i" in options.flags:
        _account_invalid(session, Operation.WRITE)
        raise IoRefusal("injecting invalid write request\n")
    if len(options.operands) < 2:
        raise IoUsage
    _check_write(options)
    if "z" in options.flags:
        offset, length = parse_number(options.operands[0]), parse_number(options.operands[1])
    else:
        offset, length = vector(options)
    request = AioRequest(session, options, offset, length)
    await request.guest.start(session.backend, request.write(pattern))


def _account_invalid(session: IoSession, operation: Operation) -> None:
    session.backend.accounting.invalid(operation, nanoseconds(session.now()))


def _check_write(options: Options) -> None:
    if "z" in options.flags and len(options.operands) != 2:
        raise IoRefusal("-z supports only a single length parameter\n")
    if "u" in options.flags and "z" not in options.flags:
        raise IoRefusal("-u requires -z to be specified\n")
    if "z" in options.flags and "P" in options.values:
        raise IoRefusal("-z and -P cannot be specified at the same time\n")


async def aio_flush(session: IoSession, words: list[str]) -> None:
    """``aio_flush``: wait for every request that was started."""
    del words
    guest = session.context.layer.guest
    started = nanoseconds(session.now())
    await session.wait(guest.idle())
    session.backend.accounting.done(Operation.FLUSH, 0, started, nanoseconds(session.now()))
    unsaid = guest.take_unsaid()
    if unsaid:
        session.print(unsaid)
