"""``blkxact watch --web``: what is recorded, live in a browser on this machine.

The daemon is asked only where its record is, which is then read as it grows; the connection says
when the daemon has ended.
"""

from __future__ import annotations

import asyncio
import os
import secrets
from pathlib import Path
from typing import Any, Final, cast

from qemu.qmp import ExecuteError

from blkxact.report.live import LiveServer

from .client import ConnectionEndedError, connected, until_ended
from .errors import CliError

SECRET_BYTES: Final = 12


async def serve_page(address: str) -> None:
    """Print the address of the page, and serve it until the daemon ends. Raises ``CliError``."""
    server = None
    try:
        async with connected(address) as client:
            server = _start(await _record_of(client, address))
            print(server.url, flush=True)
            await until_ended(client)
            await asyncio.to_thread(server.finish)
    except ConnectionEndedError:
        if server is None:
            raise
    finally:
        if server is not None:
            server.close()


def _start(record: Path) -> LiveServer:
    if not os.access(record, os.R_OK):
        raise CliError(f"the daemon's record '{record}' cannot be read here")
    return LiveServer(record, secrets.token_urlsafe(SECRET_BYTES))


async def _record_of(client: Any, address: str) -> Path:
    try:
        found = cast("dict[str, Any]", await client.execute("x-blkxact-query-record"))
    except ExecuteError as error:
        if error.error_class != "CommandNotFound":
            raise
        raise CliError(
            f"the daemon at '{address}' keeps no record; start it with --record FILE"
        ) from error
    return Path(found["filename"])
