"""The careful client: what a sweep found in it by chance, made certain."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import pytest
from qemu.qmp import Runstate

EXAMPLES = Path(__file__).parents[2] / "examples/clients"


class Connection:
    """A connection whose loss is announced once."""

    def __init__(self) -> None:
        self.runstate = Runstate.RUNNING
        self._changed = asyncio.Event()

    async def runstate_changed(self) -> Runstate:
        await self._changed.wait()
        return self.runstate

    def lose(self) -> None:
        self.runstate = Runstate.DISCONNECTING
        self._changed.set()
        self._changed.clear()


@pytest.mark.parametrize("turns", range(5))
async def test_loss_of_the_connection_is_noticed_whenever_it_comes(
    turns: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Also between the look at the connection and the begin of the wait."""
    monkeypatch.syspath_prepend(EXAMPLES)
    import careful  # noqa: PLC0415 - a script beside the scenario

    monkeypatch.delitem(sys.modules, "careful")
    connection = Connection()
    backup = careful.Backup(connection, tmp_path, ["vda"])

    def lose(left: int) -> None:
        if left:
            asyncio.get_running_loop().call_soon(lose, left - 1)
        else:
            connection.lose()

    waiting = asyncio.ensure_future(backup.next_event())
    asyncio.get_running_loop().call_soon(lose, turns)
    with pytest.raises(careful.BackupError, match="the connection is lost"):
        await asyncio.wait_for(waiting, 30)
