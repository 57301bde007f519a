"""BlockLimitsInfo (QEMU 10.2): the values follow from ``block/io.c`` and the drivers of QEMU."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from blkxact.drivers.nbd.limits import limits_of
from blkxact.nbd.client_handshake import ExportInfo
from tests.emulator import Emulator

MEMORY = {"min-mem-alignment": 512, "opt-mem-alignment": 4096, "max-iov": 1024}
PLAIN = {"request-alignment": 1, **MEMORY}
FILE = PLAIN | {"min-mem-alignment": 1}
QCOW2 = FILE | {"write-zeroes-alignment": 65536, "discard-alignment": 65536}
DEBUG = {
    "driver": "blkdebug",
    "align": 512,
    "max-transfer": 65536,
    "opt-write-zero": 1024,
    "max-write-zero": 2048,
    "opt-discard": 4096,
    "max-discard": 8192,
}
NULL = {"driver": "null-co", "size": 1 << 20, "read-zeroes": True}
INT_MAX = 2**31 - 1
MIB = 1 << 20


@pytest.fixture
async def emulator() -> AsyncIterator[Emulator]:
    emulator = Emulator()
    emulator.emulate("11.1")
    yield emulator
    await emulator.layer.shutdown()


async def images(emulator: Emulator, *, flat: bool = True) -> dict[str, Any]:
    nodes = await emulator.execute("query-named-block-nodes", flat=flat)
    return {node["node-name"]: node["image"] for node in nodes}


async def limits(emulator: Emulator, **options: Any) -> dict[str, int]:
    """Return the limits of a new node with these options."""
    members = {name.replace("_", "-"): value for name, value in options.items()}
    await emulator.execute_wire("blockdev-add", members | {"node-name": "new"})
    found: dict[str, int] = (await images(emulator))["new"]["limits"]
    return found


async def test_image_has_its_units_and_a_file_none(emulator: Emulator) -> None:
    await emulator.create_disk("a")
    file = {"driver": "file", "node-name": "f", "filename": "/a.qcow2"}
    assert await limits(emulator, driver="qcow2", file=file) == QCOW2
    assert (await images(emulator))["f"]["limits"] == FILE


async def test_layers_below_are_described_too(emulator: Emulator) -> None:
    await emulator.create_disk("a")
    await emulator.add_disk("a")
    await emulator.create_disk("b")
    await emulator.add_disk("b", backing="a")
    image = (await images(emulator, flat=False))["b"]
    assert image["limits"] == image["backing-image"]["limits"] == QCOW2
    emulator.plug("b")
    (block,) = await emulator.execute("query-block")
    assert block["inserted"]["image"]["limits"] == QCOW2


async def test_node_without_children_has_those_of_any(emulator: Emulator) -> None:
    assert await limits(emulator, **NULL) == PLAIN


async def test_filter_has_what_concerns_transfers_from_below(emulator: Emulator) -> None:
    """Not the alignment of requests, and not what concerns zeroes."""
    given = {name: value for name, value in DEBUG.items() if name != "driver"}
    names = {
        "align": "request-alignment",
        "opt-write-zero": "write-zeroes-alignment",
        "max-write-zero": "max-write-zeroes",
        "opt-discard": "discard-alignment",
    }
    own = {names.get(name, name): value for name, value in given.items()}
    debug = DEBUG | {"node-name": "d", "image": NULL}
    found = await limits(emulator, driver="copy-on-read", file=debug)
    assert found == PLAIN | {"max-transfer": 65536, "discard-alignment": 4096}
    assert (await images(emulator))["d"]["limits"] == PLAIN | own


async def test_least_of_several_children_is_the_most(emulator: Emulator) -> None:
    children = [
        DEBUG | {"image": NULL, "max-transfer": size, "opt-discard": unit, "max-discard": unit}
        for size, unit in [(65536, 4096), (32768, 8192)]
    ]
    found = await limits(emulator, driver="quorum", vote_threshold=1, children=children)
    assert (found["max-transfer"], found["discard-alignment"]) == (32768, 8192)


async def test_compressed_writes_are_whole_clusters(emulator: Emulator) -> None:
    await emulator.create_disk("a")
    await emulator.add_disk("a")
    found = await limits(emulator, driver="compress", file="a")
    assert found == FILE | {"request-alignment": 65536, "discard-alignment": 65536}


async def test_raw_whose_format_was_probed_is_written_by_sectors(emulator: Emulator) -> None:
    assert await limits(emulator, driver="raw", file=NULL) == PLAIN
    await emulator.create("/r", "raw")
    image = await emulator.layer.blockdev.open_image("/r", {}, None)
    assert (await images(emulator))[image.node_name]["limits"]["request-alignment"] == 512


@pytest.mark.parametrize(
    ("info", "expected"),
    [
        (ExportInfo(size=MIB), {"request-alignment": 512, "max-discard": INT_MAX - 511}),
        (ExportInfo(size=MIB + 1), {"request-alignment": 1, "max-discard": INT_MAX}),
        (
            ExportInfo(size=MIB, minimum_block=4096, preferred_block=65536, maximum_block=MIB),
            {
                "request-alignment": 4096,
                "max-discard": INT_MAX - 4095,
                "opt-transfer": 65536,
                "max-transfer": MIB,
                "max-write-zeroes": MIB,
            },
        ),
    ],
)
def test_server_decides_how_much_it_takes(info: ExportInfo, expected: dict[str, int]) -> None:
    most = {"max-transfer": 32 * MIB, "max-write-zeroes": 32 * MIB}
    assert limits_of(info) == most | expected


async def info_block(emulator: Emulator) -> str:
    text: str = await emulator.hmp("info block -n -v")
    return text.replace("\r", "")


async def test_monitor_shows_limits_as_the_newer_release_does(emulator: Emulator) -> None:
    await emulator.execute_wire("blockdev-add", NULL | {"node-name": "n"})
    assert (await info_block(emulator)).endswith(
        "Block limits:\n"
        "    request alignment: 1\n"
        "    min mem alignment: 512\n"
        "    opt mem alignment: 4096\n"
        "    max iov: 1024\n"
    )


@pytest.mark.parametrize("version", ["7.2", "10.0"])
async def test_older_release_does_not_have_them(emulator: Emulator, version: str) -> None:
    emulator.emulate(version)
    await emulator.execute_wire("blockdev-add", NULL | {"node-name": "n"})
    assert "limits" not in (await images(emulator))["n"]
    assert "limits" not in await info_block(emulator)
