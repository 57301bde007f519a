"""backing-mask-protocol: what a header names as the format of a backing file without one.

The formats are those that QEMU 10.0 writes.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from blkxact.errors import QmpError
from tests.emulator import Emulator

COMMIT = {"device": "top", "top_node": "mid", "base_node": "base", "job_id": "j"}
STREAM = {"device": "top", "base_node": "base", "job_id": "j"}


@pytest.fixture
async def emulator() -> AsyncIterator[Emulator]:
    """Yield an emulator with base (a bare file) <- mid <- top."""
    emulator = Emulator()
    emulator.emulate("9.2")
    await emulator.create("/base", "raw")
    await emulator.execute("blockdev-add", driver="file", node_name="base", filename="/base")
    below = "base"
    for name in ("mid", "top"):
        await emulator.create(f"/{name}.qcow2")
        await emulator.add_disk(name, backing=below)
        below = name
    yield emulator
    await emulator.layer.shutdown()


async def run(emulator: Emulator, command: str, **arguments: Any) -> str | None:
    """Run a job; return the format that the top names afterwards."""
    await emulator.execute(command, **arguments)
    await emulator.jobs_over()
    return emulator.layer.find_node("top").driver.backing_format


@pytest.mark.parametrize(
    ("command", "arguments"), [("block-commit", COMMIT), ("block-stream", STREAM)]
)
@pytest.mark.parametrize(("mask", "name"), [(None, "file"), (False, "file"), (True, "raw")])
async def test_protocol_is_named_raw(
    emulator: Emulator, command: str, arguments: dict[str, Any], mask: bool | None, name: str
) -> None:
    given = {} if mask is None else {"backing_mask_protocol": mask}
    assert await run(emulator, command, **arguments, **given) == name


async def test_format_is_named_as_it_is(emulator: Emulator) -> None:
    arguments = {"device": "top", "base_node": "mid", "job_id": "j", "backing_mask_protocol": True}
    assert await run(emulator, "block-stream", **arguments) == "qcow2"


async def test_active_commit_takes_it(emulator: Emulator) -> None:
    arguments = {"device": "top", "base_node": "base", "job_id": "j"}
    await emulator.execute("block-commit", **arguments, backing_mask_protocol=True)
    await emulator.execute("job-cancel", id="j")
    await emulator.jobs_over()
    assert emulator.layer.find_node("top").backing is emulator.layer.find_node("mid")


@pytest.mark.parametrize("command", ["block-commit", "block-stream"])
async def test_older_release_does_not_have_it(emulator: Emulator, command: str) -> None:
    emulator.emulate("8.2")
    with pytest.raises(QmpError, match=r"^Parameter 'backing-mask-protocol' is unexpected$"):
        await emulator.execute(command, device="top", backing_mask_protocol=True)
