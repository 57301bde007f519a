"""The command line as a QMP client: qemu.qmp's client with errors that a person understands."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, Final

from qemu.qmp import (
    ConnectError,
    EventListener,
    ExecInterruptedError,
    ExecuteError,
    QMPClient,
    QMPError,
    Runstate,
    StateError,
)

from .errors import CliError

Address = str | tuple[str, int]

GREETING_SECONDS: Final = 10
"""How long a server may take to greet. QEMU greets at once, unless another client is connected."""


class ConnectionEndedError(CliError):
    """The server closed the connection."""


class _Client(QMPClient):
    """qemu.qmp's client, which can also leave a server that reads nothing."""

    def abort(self) -> None:
        """Close the connection without sending the rest; ``disconnect`` alone would wait for it."""
        if self._writer is not None:
            self._writer.transport.abort()


def parse_address(text: str) -> Address:
    """Return what ``text`` names: ``PATH``, ``unix:PATH``, ``tcp:HOST:PORT`` or ``HOST:PORT``."""
    if text.startswith("unix:"):
        return text.removeprefix("unix:")
    host, colon, port = text.removeprefix("tcp:").rpartition(":")
    if colon and port.isdecimal() and "/" not in host:
        return host.removeprefix("[").removesuffix("]") or "localhost", int(port)
    if text.startswith("tcp:"):
        raise CliError(f"'{text}': tcp:HOST:PORT is expected")
    return text


@asynccontextmanager
async def connected(
    address: str, *, greeting_seconds: float | None = None
) -> AsyncIterator[QMPClient]:
    """Connect to a server's monitor, and disconnect at the end.

    Raises ``CliError`` when there is no server, when it does not greet, or when it breaks the
    protocol; ``ConnectionEndedError`` when it closes the connection.
    """
    logging.getLogger("qemu.qmp").setLevel(logging.CRITICAL)  # errors are reported by exceptions
    client = _Client("blkxact")
    await _connect(client, address, greeting_seconds or GREETING_SECONDS)
    try:
        yield client
    except (ExecInterruptedError, StateError) as error:
        raise ConnectionEndedError(f"'{address}' closed the connection") from error
    except ExecuteError:
        raise
    except QMPError as error:
        raise CliError(f"'{address}' does not speak QMP: {error}") from error
    finally:
        await _disconnect(client)


async def _connect(client: _Client, address: str, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await client.connect(parse_address(address))
    except TimeoutError:
        raise CliError(
            f"'{address}' did not greet within {seconds:g} seconds:"
            " it serves another client, or is not a QMP server"
        ) from None
    except ConnectError as error:
        raise CliError(f"cannot connect to '{address}': {_reason(error.exc)}") from error
    except AssertionError:  # that is how the client reports an end right after the negotiation
        await _disconnect(client)
        raise ConnectionEndedError(f"'{address}' closed the connection") from None


async def next_event(client: QMPClient, listener: EventListener) -> Mapping[str, Any]:
    """Return the next event; raises ``ExecInterruptedError`` when the connection ends first."""
    if not listener.empty():
        return await listener.get()
    event = asyncio.create_task(listener.get())
    ended = asyncio.create_task(until_ended(client))
    try:
        await asyncio.wait({event, ended}, return_when=asyncio.FIRST_COMPLETED)
        if event.done():
            return event.result()
        raise ExecInterruptedError("Disconnected")
    finally:
        event.cancel()
        ended.cancel()


async def until_ended(client: QMPClient) -> None:
    """Return when the connection has ended."""
    while client.runstate is Runstate.RUNNING:
        await client.runstate_changed()


async def _disconnect(client: _Client) -> None:
    """Close the connection; how the server left is of no interest any more."""
    client.abort()
    try:
        await client.disconnect()
    except (QMPError, EOFError, OSError):
        return


def _reason(error: Exception) -> str:
    if isinstance(error, OSError) and error.errno:
        return os.strerror(error.errno)
    return str(error) or "it hung up"
