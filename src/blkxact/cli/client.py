"""The command line as a QMP client: qemu.qmp's client with errors that a person understands."""

from __future__ import annotations

import logging
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from qemu.qmp import ConnectError, ExecInterruptedError, QMPClient, QMPError

from .errors import CliError

Address = str | tuple[str, int]


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
async def connected(address: str) -> AsyncIterator[QMPClient]:
    """Connect to a server's monitor, and disconnect at the end.

    Raises ``CliError`` when there is no server or when it hangs up.
    """
    logging.getLogger("qemu.qmp").setLevel(logging.CRITICAL)  # errors are told by exceptions
    client = QMPClient("blkxact")
    try:
        await client.connect(parse_address(address))
    except ConnectError as error:
        raise CliError(f"cannot connect to '{address}': {_reason(error.exc)}") from error
    try:
        yield client
    except ExecInterruptedError as error:
        raise CliError(f"'{address}' closed the connection") from error
    finally:
        await disconnect(client)


async def disconnect(client: QMPClient) -> None:
    """Close the connection; how the server left is of no interest any more."""
    try:
        await client.disconnect()
    except (QMPError, EOFError, OSError):
        return


def _reason(error: Exception) -> str:
    if isinstance(error, OSError) and error.errno:
        return os.strerror(error.errno)
    return str(error) or "it hung up"
