"""``delay-ns`` of blkdebug's rules (QEMU 11.1): the request is answered later, by the clock."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from typing import Any

import pytest

from blkxact.block_layer import BlockLayer
from blkxact.drivers.blkdebug_rules import parse_config
from blkxact.errors import QmpError
from blkxact.runtime.clock import SteppedClock
from blkxact.runtime.events import EventSink
from blkxact.runtime.release import RELEASES
from blkxact.testing.waiting import until_idle
from tests.emulator import Emulator

SECOND = 1_000_000_000
CONFIG = '[inject-error]\nevent = "read_aio"\ndelay-ns = "5"\n'


@pytest.fixture
def clock() -> SteppedClock:
    return SteppedClock()


@pytest.fixture
async def emulator(clock: SteppedClock) -> AsyncIterator[Emulator]:
    """Yield an emulator of the newest release whose time stands still."""
    emulator = Emulator()
    sink = EventSink(clock)
    layer = BlockLayer(emulator.storage, clock, sink, rng=random.Random(1))
    layer.release = RELEASES["11.1"]
    emulator.use(layer)
    yield emulator
    await emulator.layer.shutdown()


async def debug(emulator: Emulator, *rules: dict[str, Any]) -> None:
    """Make the node ``d`` with these rules."""
    image = {"driver": "null-co", "size": 1 << 20, "read-zeroes": True}
    rules_of = [{"event": "none"} | rule for rule in rules]
    options = {"driver": "blkdebug", "node-name": "d", "image": image, "inject-error": rules_of}
    await emulator.execute_wire("blockdev-add", options)


def read(emulator: Emulator, offset: int = 0) -> asyncio.Task[Any]:
    node = emulator.layer.find_node("d")
    return asyncio.create_task(node.pread(offset, 512))  # type: ignore[arg-type]


@pytest.mark.parametrize("immediately", [False, True])
async def test_request_is_answered_when_its_time_has_come(
    emulator: Emulator, clock: SteppedClock, immediately: bool
) -> None:
    await debug(emulator, {"delay-ns": 2 * SECOND, "errno": 28, "immediately": immediately})
    request = read(emulator)
    await until_idle()
    clock.advance(1.5)
    await until_idle()
    assert not request.done()
    clock.advance(0.5)
    with pytest.raises(OSError, match="No space left on device"):
        await request


async def test_request_without_an_error_goes_on_after_the_delay(
    emulator: Emulator, clock: SteppedClock
) -> None:
    await debug(emulator, {"delay-ns": SECOND, "errno": 0, "sector": 1})
    assert bytes(await read(emulator)) == bytes(512)
    request = read(emulator, 512)
    await until_idle()
    assert not request.done()
    clock.advance(1)
    assert bytes(await request) == bytes(512)


async def test_once_delays_one_request(emulator: Emulator, clock: SteppedClock) -> None:
    await debug(emulator, {"delay-ns": SECOND, "errno": 0, "once": True})
    request = read(emulator)
    await until_idle()
    assert bytes(await read(emulator)) == bytes(512)
    assert not request.done()
    clock.advance(1)
    await request


@pytest.mark.parametrize("delay", [0, -1])
async def test_no_delay_is_none(emulator: Emulator, delay: int) -> None:
    await debug(emulator, {"delay-ns": delay})
    with pytest.raises(OSError, match="Input/output error"):
        await read(emulator)


@pytest.mark.parametrize(("version", "failing"), [("10.0", 0), ("11.1", 2)])
async def test_rule_without_an_error_is_used_up_in_the_newer_release(
    emulator: Emulator, version: str, failing: int
) -> None:
    """It comes before the one with an error, which is reached only when it is gone."""
    emulator.emulate(version)
    await debug(emulator, {"errno": 0, "once": True}, {})
    results = await asyncio.gather(*(read(emulator) for _ in range(3)), return_exceptions=True)
    assert [isinstance(result, OSError) for result in results].count(True) == failing


async def test_older_release_does_not_have_it(emulator: Emulator) -> None:
    emulator.emulate("10.0")
    with pytest.raises(QmpError, match=r"^Parameter 'inject-error\[0\].delay-ns' is unexpected$"):
        await debug(emulator, {"delay-ns": 1})


def test_configuration_file_may_have_it_in_the_newer_release() -> None:
    (rule,) = parse_config(CONFIG, RELEASES["11.1"])
    assert getattr(rule, "delay_ns", None) == 5
    with pytest.raises(QmpError, match=r"^Invalid parameter 'delay-ns'$"):
        parse_config(CONFIG, RELEASES["10.0"])
