"""The driver ``blkverify``: two images that must agree."""

from __future__ import annotations

import pytest

from blkxact.errors import QmpError
from tests.emulator import Emulator


@pytest.fixture
async def emulator() -> Emulator:
    emulator = Emulator()
    for name, fmt in (("raw", "raw"), ("test", "qcow2")):
        await emulator.create(f"/{name}", fmt)
        await emulator.open(name, f"/{name}", fmt)
    await emulator.execute(
        "blockdev-add", driver="blkverify", node_name="both", raw="raw", test="test"
    )
    return emulator


async def test_both_are_written_and_read(emulator: Emulator) -> None:
    await emulator.qemu_io("both", "write -P 42 1k 3k")
    await emulator.qemu_io("both", "write -z 2k 512")
    assert "Pattern" not in await emulator.qemu_io("both", "read -P 42 1k 1k")
    await emulator.execute("blockdev-del", node_name="both")
    for name in ("raw", "test"):
        for request in ("read -P 42 1k 1k", "read -P 0 2k 512", "read -P 42 2560 512"):
            assert "Pattern" not in await emulator.qemu_io(name, request)


async def test_a_difference_ends_the_process(
    emulator: Emulator, caplog: pytest.LogCaptureFixture
) -> None:
    both = emulator.layer.find_node("both")
    test = both.children["test"]
    await test.node.driver.pwrite(700, b"x")
    with pytest.raises(SystemExit) as caught:
        await both.pread(512, 512)
    assert caught.value.code == 1
    assert caplog.messages == [
        "blkverify: read offset=512 bytes=512 contents mismatch at offset 700"
    ]


async def test_a_name_stands_for_the_two(emulator: Emulator) -> None:
    name = emulator.layer.find_node("both").filename
    assert name == "blkverify:/raw:/test"
    for node in ("both", "raw", "test"):
        await emulator.execute("blockdev-del", node_name=node)
    node = await emulator.layer.blockdev.open_image(name, fmt="raw")
    verified = node.children["file"].node
    formats = {child: edge.node.driver.format_name for child, edge in verified.children.items()}
    assert formats == {"raw": "raw", "test": "qcow2"}


async def test_a_name_of_one_image_is_refused(emulator: Emulator) -> None:
    with pytest.raises(QmpError, match="requires raw copy and original image path"):
        await emulator.layer.blockdev.open_image("blkverify:/raw", fmt="raw")
