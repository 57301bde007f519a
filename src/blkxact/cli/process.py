"""Runs a daemon as a process: the background, the PID file, the log, the user that it becomes.

QEMU's counterpart: ``os-posix.c``, ``qemu_maybe_daemonize()``.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sys
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, Final, TextIO

from blkxact.machine.options import ServeOptions
from blkxact.runtime import start
from blkxact.storage.paced_output import STDERR, PacedOutput

from .background import Background, PidFile
from .errors import CliError
from .privileges import find_user, give_up
from .serve_log import error_stream, logging_to, open_log

if TYPE_CHECKING:
    from blkxact.record.writer import RecordWriter

SWITCH_INTERVAL_S: Final = 0.0001
"""Seconds for which the loop may hold up a thread that copies.

Such a thread needs the interpreter for a moment between two system calls. With Python's 5 ms it
waited whenever the loop was busy: scattered copies were a tenth slower.
"""

MAX_UNREAD: Final = 1 << 20
"""Bytes of messages that are kept while nobody reads standard error."""

PATIENCE_S: Final = 2.0
"""Seconds that a reader of standard error has for what it has not read when the start is over."""

ENDING_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

_log = logging.getLogger(__name__)


def run_daemon(options: ServeOptions) -> bool:
    """Serve until ``quit`` or a signal; return whether all was stored and no server cut off.

    With ``daemonize`` the process that called exits with the status of the start.
    """
    user = None if options.run_as is None else find_user(options.run_as)
    log = None if options.log_file is None else open_log(options.log_file)
    record = None if options.record is None else _open_record(options.record, options.record_limit)
    if options.exits_with_parent:
        _end_with_parent()
    background = Background() if options.daemonize else None
    if background is not None and background.is_parent:
        return background.wait()
    with contextlib.ExitStack() as stack:
        if background is not None:
            stack.enter_context(background.reporting())
        errors = PacedOutput(STDERR, limit=MAX_UNREAD, notice=partial(_notice, options.program))
        stack.enter_context(_messages(options, log, errors))
        if options.pidfile is not None and options.pidfile_first:
            stack.enter_context(PidFile(options.pidfile))

        def on_ready(addresses: list[str]) -> None:
            if options.pidfile is not None and not options.pidfile_first:
                stack.enter_context(PidFile(options.pidfile))
            give_up(options.chroot, user)
            start.end()
            if background is not None:
                errors.flush(PATIENCE_S)
                background.ready(log)
            for address in addresses if options.announce else ():
                _log.info("listening for %s", address)

        return _run(options, on_ready, record, errors)
    raise AssertionError("no context here suppresses errors")


def _messages(
    options: ServeOptions, log: TextIO | None, errors: PacedOutput
) -> contextlib.AbstractContextManager[None]:
    """Return the context in which messages are written."""
    return logging_to(
        log or error_stream(errors),
        program=options.program,
        times=options.verbose or log is not None or options.message_times,
        verbose=options.verbose,
    )


def _end_with_parent() -> None:
    """Let the end of the parent be a signal; a daemon in the background has none, as in QEMU."""
    from blkxact.storage.libc import die_with_parent  # noqa: PLC0415 - few ask for it

    die_with_parent(signal.SIGTERM, os.getppid())


def _notice(program: str, dropped: int) -> bytes:
    """Return what stands in place of messages that nobody has read in time."""
    return f"{program}: {dropped} messages were dropped, because nobody read them\n".encode()


def _open_record(path: str, limit: int) -> RecordWriter:
    from blkxact.record.writer import RecordWriter  # noqa: PLC0415 - few keep a record

    try:
        return RecordWriter(path, limit)
    except OSError as error:
        raise CliError(f"cannot open record '{path}': {error.strerror}") from error


def _run(
    options: ServeOptions,
    on_ready: Callable[[list[str]], None],
    record: RecordWriter | None,
    errors: PacedOutput,
) -> bool:
    import asyncio  # noqa: PLC0415 - words that are refused need not load all of it

    from blkxact.daemon import Daemon  # noqa: PLC0415
    from blkxact.runtime.polling import polling_loop  # noqa: PLC0415
    from blkxact.runtime.signals import handled  # noqa: PLC0415

    from .import_reserve import ImportReserve  # noqa: PLC0415

    sys.setswitchinterval(SWITCH_INTERVAL_S)
    daemon = Daemon(options, on_ready=on_ready, record=record, errors=errors, **_for_tests(options))
    with (
        ImportReserve(),
        asyncio.Runner(loop_factory=polling_loop) as runner,
        handled(runner.get_loop(), ENDING_SIGNALS, daemon.on_signal),
    ):
        return runner.run(daemon.run())


def _for_tests(options: ServeOptions) -> dict[str, Any]:
    """Return what ``--testing`` and ``--testing-power`` add to a daemon."""
    if not options.testing and not options.testing_power:
        return {}
    from blkxact.kit.clock import AdvancingClock  # noqa: PLC0415 - for tests only
    from blkxact.kit.remote import RemoteControl  # noqa: PLC0415

    clock = None if options.qtest is not None else AdvancingClock()
    storage = None
    more: dict[str, Any] = {}
    if options.testing_power:
        from blkxact.kit.storage import KitStorage  # noqa: PLC0415
        from blkxact.storage.descriptors import Descriptors  # noqa: PLC0415

        storage = KitStorage(Descriptors(), loses_power=True)
        more = {"storage": storage, "descriptors": storage.descriptors}
    return {
        "clock": clock,
        "test_control": lambda layer: RemoteControl(layer, clock, storage),
        **more,
    }
