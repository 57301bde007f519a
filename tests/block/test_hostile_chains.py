"""Backing files whose names an image's header chooses: loops, depth, names that are no names."""

from __future__ import annotations

import json

import pytest
from tests.environment import environment

from blkxact.block.node_filename import Filenames
from blkxact.blockdev.backing_name import MAX_BACKING_DEPTH
from blkxact.blockdev.blockdev import Blockdev
from blkxact.drivers.qcow2.create import CreateOptions, create
from blkxact.drivers.qcow2.storage_child import StorageChild
from blkxact.errors import QmpError
from blkxact.storage.os_file import OsStorage


@pytest.fixture
async def storage():
    storage = OsStorage()
    yield storage
    storage.close()


@pytest.fixture
async def blockdev(storage):
    blockdev = Blockdev(environment(storage))
    yield blockdev
    await blockdev.close_all()
    assert not blockdev.graph.nodes


async def make(storage, path, backing=None, fmt=None):
    file = await storage.create(str(path))
    await create(StorageChild(file), CreateOptions(65536, backing_file=backing, backing_format=fmt))
    await file.close()


def name_of(options):
    return "json:" + json.dumps(options)


def image(path, driver="qcow2"):
    return {"driver": driver, "file": {"driver": "file", "filename": str(path)}}


@pytest.mark.parametrize(
    "backing",
    [
        str,
        lambda path: path.name,
        lambda path: "./" + path.name,
        lambda path: "../" + path.parent.name + "/" + path.name,
        lambda path: "file:" + str(path),
        lambda path: name_of(image(path)),
        lambda path: name_of({"driver": "raw", "file": image(path)}),
        lambda path: name_of({"file": image(path)}),
        lambda path: name_of({"driver": "blkdebug", "image": image(path)}),
        lambda path: name_of({**image(path), "backing": image(path)}),
    ],
)
async def test_image_that_leads_back_to_itself_is_refused(blockdev, storage, image_dir, backing):
    path = image_dir / "a"
    await make(storage, path, backing(path), None if "json" in backing(path) else "qcow2")
    before = path.read_bytes()
    with pytest.raises(QmpError) as error:
        await blockdev.open_image(str(path), {"read-only": True}, "qcow2")
    assert "infinite loop" in error.value.desc or "There are more than 200" in error.value.desc
    assert len(error.value.desc) < 500
    assert path.read_bytes() == before
    assert not blockdev.graph.nodes


async def test_loop_over_two_images_by_links_is_refused(blockdev, storage, image_dir):
    await make(storage, image_dir / "a", str(image_dir / "b"), "qcow2")
    await make(storage, image_dir / "b", str(image_dir / "link"), "qcow2")
    (image_dir / "link").symlink_to("a")
    with pytest.raises(QmpError, match=r"infinite loop|There are more than 200"):
        await blockdev.open_image(str(image_dir / "a"), {"read-only": True}, "qcow2")


@pytest.mark.parametrize("missing", ["none", "none/none", "/none/none", "file:none", "x" * 300])
async def test_backing_file_that_is_not_there_is_named(blockdev, storage, image_dir, missing):
    await make(storage, image_dir / "a", missing, "qcow2")
    with pytest.raises(QmpError, match=r"^Could not open backing file: Could not open '.*none|x+'"):
        await blockdev.open_image(str(image_dir / "a"), {"read-only": True}, "qcow2")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"driver": 5}, "Invalid parameter type for 'driver'"),
        ({"driver": "file", "filename": ["x"]}, "Parameters 'filename"),
        ({"driver": "null-co", "size": "x"}, "Parameter 'size' expects"),
        ({"driver": "qcow2", "file": None}, "Invalid parameter type for 'file'"),
        ({"driver": "raw", "file.filename": "x", "file": 5}, "Invalid parameter type for 'file'"),
        ({"driver": "nope"}, "nope"),
        ({}, "Must specify either driver or file"),
    ],
)
async def test_options_that_an_image_made_up_are_refused(
    blockdev, storage, image_dir, options, message
):
    await make(storage, image_dir / "a", name_of(options))
    with pytest.raises(QmpError, match=message):
        await blockdev.open_image(str(image_dir / "a"), {"read-only": True}, "qcow2")


@pytest.mark.parametrize("text", ["json:{", "json:" + "[" * 900, 'json:{"a":' * 90, "json:{}{}"])
async def test_name_that_is_no_json_is_refused(blockdev, storage, image_dir, text):
    await make(storage, image_dir / "a", text)
    with pytest.raises(QmpError, match="Could not parse the JSON options"):
        await blockdev.open_image(str(image_dir / "a"), {"read-only": True}, "qcow2")


async def test_long_chain_of_json_names_has_a_name_without_doubling_the_work(
    blockdev, storage, image_dir
):
    depth = MAX_BACKING_DEPTH // 4
    await make(storage, image_dir / "0")
    for number in range(1, depth):
        await make(storage, image_dir / str(number), name_of(image(image_dir / str(number - 1))))
    node = await blockdev.open_image(str(image_dir / str(depth - 1)), None, "qcow2")
    assert node.filename == str(image_dir / str(depth - 1))


async def test_to_open_a_long_chain_names_each_image_a_few_times(
    blockdev, storage, image_dir, monkeypatch
):
    """The time to open one more does not grow with what lies below it."""
    length, named = 30, []
    short = Filenames.short
    monkeypatch.setattr(
        Filenames, "short", lambda names, node: named.append(node) or short(names, node)
    )
    for level in range(length):
        below = f"{level - 1}" if level else None
        await make(storage, image_dir / f"{level}", below, "qcow2" if below else None)
    top = await blockdev.open(image(image_dir / f"{length - 1}"), backing=True)
    assert len(named) <= 6 * length
    assert top.filename == str(image_dir / f"{length - 1}")
    assert top.backing.filename == str(image_dir / f"{length - 2}")
