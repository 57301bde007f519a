"""From options to nodes and back, and nothing left open where that fails."""

# ruff: noqa: ASYNC240 - files that the tests make themselves

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Literal

import pytest
from block_fakes import READ_WRITE, FormatDriver, P, Root
from tests.environment import environment

from blkxact.block.backend import BlockBackend
from blkxact.block.blockers import BlockOp
from blkxact.block.types import ChildRole
from blkxact.blockdev import opener as node_opener
from blkxact.blockdev.backing_name import MAX_BACKING_DEPTH
from blkxact.blockdev.blockdev import Blockdev
from blkxact.drivers.raw import RawDriver
from blkxact.errors import QmpError
from blkxact.qapi import blockdev as blockdev_schema
from blkxact.qapi.common import Int, Opt

MIB = 1 << 20


class ToyOptions(blockdev_schema.BlockdevOptionsGenericCOWFormat):
    driver: Literal["toy", "picky"]
    fail: Opt[Int] = None


class HeaderDriver(RawDriver):
    """A toy format: its file is text, ``backing file`` and ``format`` on a line each."""

    format_name = "toy"
    supports_backing = True

    @classmethod
    def child_roles(cls, options):
        return {"file": ChildRole.IMAGE}

    @classmethod
    async def open(cls, context, options, children):
        if options.fail:
            raise OSError(options.fail, "toy")
        driver = cls(context, children)
        head = bytes(await children["file"].pread(0, 512)).rstrip(b"\0").decode()
        backing, _, fmt = head.partition("\n")
        driver.backing_file, driver.backing_format = backing, fmt or None
        return driver


class PickyDriver(HeaderDriver):
    """A format whose permissions change once it is open, as they may."""

    format_name = "picky"

    def child_permissions(self, child, role, perm, shared):
        return P.NONE, P.NONE


@pytest.fixture
def blockdev(monkeypatch, image_dir):
    """A Blockdev in an empty directory, with the toy formats."""
    toys = {"toy": HeaderDriver, "picky": PickyDriver}
    real = node_opener.find_driver
    monkeypatch.setattr(
        node_opener, "find_driver", lambda name: toys[name] if name in toys else real(name)
    )
    models = {**blockdev_schema.DRIVER_MODELS, "toy": ToyOptions, "picky": ToyOptions}
    monkeypatch.setattr(blockdev_schema, "DRIVER_MODELS", models)
    monkeypatch.chdir(image_dir)
    return Blockdev(environment())


def image(path: str, text: str = "", size: int = MIB) -> str:
    with Path(path).open("wb") as file:
        file.write(text.encode())
        file.truncate(size)
    return path


def file_options(path, **more):
    return {"driver": "file", "filename": path, **more}


def toy(name, path, **more):
    return {"driver": "toy", "node-name": name, "file": file_options(path), **more}


def open_files():
    """Return how many files of the test's directory are open."""
    here = str(Path.cwd().resolve())
    return sum(os.path.realpath(fd).startswith(here) for fd in Path("/proc/self/fd").iterdir())


def refused(desc):
    return pytest.raises(QmpError, match=f"^{desc}$")


async def test_add_makes_children_before_the_parent(blockdev):
    image("a")
    node = await blockdev.add(toy("top", "a"))
    assert list(blockdev.graph.nodes.values()) == [node.children["file"].node, node]
    assert node.children["file"].node.node_name.startswith("#block")
    assert (node.length, node.filename, node.monitor_owned) == (MIB, "a", True)
    assert not node.children["file"].node.monitor_owned


async def test_add_and_delete_leave_nothing(blockdev):
    image("a")
    await blockdev.add(toy("top", "a"))
    assert open_files() == 1
    await blockdev.delete("top")
    assert (blockdev.graph.nodes, open_files()) == ({}, 0)


async def test_delete_keeps_children_that_are_nodes_of_their_own(blockdev):
    image("a")
    await blockdev.add(file_options("a", **{"node-name": "f"}))
    await blockdev.add({"driver": "toy", "node-name": "top", "file": "f"})
    with refused("Block device f is in use"):
        await blockdev.delete("f")
    await blockdev.delete("top")
    assert list(blockdev.graph.nodes) == ["f"]
    await blockdev.delete("f")
    assert open_files() == 0


async def test_delete_refuses_as_qemu(blockdev):
    image("a")
    node = await blockdev.add(toy("top", "a"))
    with refused("Failed to find node with node-name='x'"):
        await blockdev.delete("x")
    inner = node.children["file"].node.node_name
    with refused(f"Node {inner} is not owned by the monitor"):
        await blockdev.delete(inner)
    backend = BlockBackend(blockdev.graph, "drive0")
    backend.insert(node)
    with refused("Node top is in use"):
        await blockdev.delete("top")
    backend.close()
    node.blockers.block(BlockOp.DRIVE_DEL, "a job needs it")
    with refused("Node 'top' is busy: a job needs it"):
        await blockdev.delete("top")
    node.blockers.unblock_all("a job needs it")
    edge = blockdev.graph.attach(Root(), node)
    with refused("Block device top is in use"):
        await blockdev.delete("top")
    blockdev.graph.detach(edge)
    blockdev.graph.ref(node)
    with refused("Block device top is in use"):
        await blockdev.delete("top")
    blockdev.graph.unref(node)
    await blockdev.delete("top")


async def test_children_take_over_options_of_their_parent(blockdev):
    image("a", "b\ntoy")
    image("b")
    top = await blockdev.add(
        toy("top", "a", **{"read-only": True, "cache": {"no-flush": True}, "detect-zeroes": "on"})
    )
    file = top.children["file"].node
    assert file.read_only
    assert file.cache == {"writeback": True, "direct": False, "no-flush": True}
    assert (file.detect_zeroes, file.discard, top.discard) == ("off", True, False)
    assert (top.backing.read_only, top.backing.cache["no-flush"]) == (True, True)


async def test_backing_file_is_read_only_and_relative_to_the_image(blockdev):
    Path("dir").mkdir()
    image("dir/a", "sub/b\ntoy")
    Path("dir/sub").mkdir()
    image("dir/sub/b", "../c\nraw")
    image("dir/c")
    top = await blockdev.add(toy("top", "dir/a"))
    assert [top.read_only, top.backing.read_only, top.backing.backing.read_only] == [
        False,
        True,
        True,
    ]
    assert top.backing.backing.filename == "dir/sub/../c"
    assert top.backing.backing.driver.format_name == "raw"


async def test_backing_option_goes_before_the_header(blockdev):
    image("a", "nosuch\ntoy")
    image("b")
    await blockdev.add(toy("base", "b"))
    one = await blockdev.add(toy("one", "a", backing=None))
    assert one.backing is None
    await blockdev.delete("one")
    two = await blockdev.add(toy("two", "a", backing="base"))
    assert two.backing is blockdev.graph.nodes["base"]
    await blockdev.delete("two")
    three = await blockdev.add(
        toy(
            "three", "a", backing={"driver": "raw", "node-name": "inner", "file": file_options("b")}
        )
    )
    assert three.backing.node_name == "inner"
    await blockdev.delete("three")
    assert "inner" not in blockdev.graph.nodes


async def test_backing_of_a_driver_without_backing_files_is_refused(blockdev):
    image("a")
    with refused("Driver doesn't support backing files"):
        await blockdev.open_image("a", {"backing": "x"}, "raw")


async def test_backing_file_with_a_format_is_not_probed(blockdev):
    image("a", "b\nraw")
    image("b", "QFI\xfb")
    top = await blockdev.add(toy("top", "a"))
    assert top.backing.driver.format_name == "raw"
    assert not top.backing.driver.probed


async def test_backing_file_without_a_format_is_probed(blockdev):
    image("a", "b")
    Path("b").write_bytes(b"KDMV" + bytes(MIB))
    with refused("Could not open backing file: Unknown driver 'vmdk'"):
        await blockdev.add(toy("top", "a"))


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ("nosuch\ntoy", "Could not open 'nosuch': No such file or directory"),
        ("b\nmagic", "Unknown driver 'magic'"),
        ("foo:b\ntoy", "Unknown protocol 'foo'"),
        ("null-co://x\nraw", "The only allowed filename for this driver is 'null-co://'"),
    ],
)
async def test_backing_file_that_cannot_be_opened_is_refused_in_qemus_words(
    blockdev, header, message
):
    image("a", header)
    image("b")
    with refused(f"Could not open backing file: {message}"):
        await blockdev.add(toy("top", "a"))
    assert (blockdev.graph.nodes, open_files()) == ({}, 0)


async def test_loop_of_backing_files_is_refused(blockdev):
    image("a", "b\ntoy")
    image("b", "c\ntoy")
    image("c", "b\ntoy")
    with pytest.raises(QmpError, match=r"^Backing file 'b' creates an infinite loop\.$"):
        await blockdev.add(toy("top", "a"))
    with pytest.raises(QmpError, match=r"^Backing file 'b' creates an infinite loop\.$"):
        await blockdev.add(toy("top", "b"))
    assert (blockdev.graph.nodes, open_files()) == ({}, 0)


async def test_loop_that_changes_its_name_ends_at_the_limit(blockdev):
    Path("d").mkdir()
    image("a", "d/../a\ntoy")
    with pytest.raises(QmpError, match=r"^There are more than 200 backing files below 'a'$"):
        await blockdev.add(toy("top", "a", **{"read-only": True}))
    assert (blockdev.graph.nodes, open_files()) == ({}, 0)


async def test_chain_of_the_deepest_allowed_length_opens(blockdev):
    image("i0", "", 512)
    for number in range(1, MAX_BACKING_DEPTH + 1):
        image(f"i{number}", f"i{number - 1}\ntoy", 512)
    top = await blockdev.add(toy("top", f"i{MAX_BACKING_DEPTH}"))
    assert len(await top.block_status(0, 512)) == 1
    await blockdev.delete("top")
    assert open_files() == 0


# Each option set fails at another step; nothing of it may stay.
@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"driver": "toy", "file": file_options("a")},
            "'node-name' must be specified for the root node",
        ),
        (toy("", "a"), "Invalid node-name: ''"),
        (toy("base", "a"), "Duplicate nodes with node-name='base'"),
        (toy("top", "a", driver="magic"), "Unknown driver 'magic'"),
        ({"driver": "toy", "node-name": "top"}, 'A block device must be specified for "file"'),
        (
            {"driver": "toy", "node-name": "top", "file": "x"},
            "Cannot find device='x' nor node-name='x'",
        ),
        (toy("top", "nosuch"), "Could not open 'nosuch': No such file or directory"),
        (toy("top", ""), "The 'file' block driver requires a file name"),
        (toy("top", "."), r"Could not open '\.': Is a directory"),
        (toy("top", "a", fail=5), "Could not open 'a': Input/output error"),
        (toy("top", "a", discard="maybe"), "Invalid discard option"),
        (
            toy("top", "a", **{"detect-zeroes": "unmap"}),
            "setting detect-zeroes to unmap is not allowed without setting discard .* to unmap",
        ),
        (
            toy("top", "a", **{"force-share": True}),
            "force-share=on can only be used with read-only images",
        ),
        (
            toy("top", "a", backing="x"),
            "Could not open backing file: Cannot find device='x' nor .*",
        ),
        (
            toy("top", "a", backing=toy("base", "b")),
            "Could not open backing file: Duplicate nodes with node-name='base'",
        ),
        (
            toy("top", "a", backing=toy("inner", "b", fail=28)),
            "Could not open backing file: Could not open 'b': No space left on device",
        ),
        (toy("top", "c"), 'Failed to get "write" lock'),
        (
            {"driver": "picky", "node-name": "top", "file": "shared"},
            "Permission conflict on node 'shared': .* both required by root 'reader' .*",
        ),
    ],
)
async def test_add_that_fails_leaves_nothing_open(blockdev, options, message):
    for name in "abc":
        image(name)
    await blockdev.add(toy("base", "c"))
    shared = await blockdev.add(file_options("b", **{"node-name": "shared"}))
    blockdev.graph.attach(Root("reader"), shared, perm=P.CONSISTENT_READ)
    nodes, files = dict(blockdev.graph.nodes), open_files()
    with refused(message):
        await blockdev.add(options)
    assert (blockdev.graph.nodes, open_files()) == (nodes, files)
    assert len(shared.parents) == 1


async def test_node_that_is_being_made_cannot_be_its_own_child(blockdev):
    image("a")
    inner = {"driver": "raw", "file": "cbw"}
    await blockdev.add(toy("source", "a"))
    errors = {
        "Making 'cbw' a target child of 'cbw' would create a cycle": "cbw",
        "Cannot find device='cbw' nor node-name='cbw'": inner,
    }
    for error, target in errors.items():
        with refused(error):
            await blockdev.add(
                {
                    "driver": "copy-before-write",
                    "node-name": "cbw",
                    "file": "source",
                    "target": target,
                }
            )
    assert len(blockdev.graph.nodes) == 2


async def test_open_that_is_cancelled_leaves_nothing_open(blockdev, monkeypatch):
    image("a", "b\ntoy")
    image("b")
    started = asyncio.Event()

    async def stuck(cls, context, options, children):
        started.set()
        await asyncio.Event().wait()

    monkeypatch.setattr(PickyDriver, "open", classmethod(stuck))
    task = asyncio.create_task(blockdev.add(toy("top", "a", backing=toy("x", "b", driver="picky"))))
    await started.wait()
    assert open_files() == 2
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (blockdev.graph.nodes, open_files()) == ({}, 0)


async def test_open_image_builds_format_over_protocol(blockdev):
    image("a")
    node = await blockdev.open_image("a", {"node-name": "n", "read-only": True}, "raw")
    assert (node.driver.format_name, node.node_name, node.read_only) == ("raw", "n", True)
    assert node.children["file"].node.driver.format_name == "file"
    await blockdev.close_unused()
    assert (blockdev.graph.nodes, open_files()) == ({}, 0)


async def test_open_image_that_someone_takes_stays(blockdev):
    image("a")
    edge = blockdev.graph.attach(Root(), await blockdev.open_image("a", None, "raw"))
    await blockdev.close_unused()
    assert open_files() == 1
    blockdev.graph.detach(edge)
    await blockdev.graph.settled()
    assert open_files() == 0


async def test_open_image_without_backing_leaves_the_headers_out(blockdev):
    image("a", "nosuch\ntoy")
    node = await blockdev.open_image("a", None, "toy", backing=False)
    assert (node.backing, node.driver.backing_file) == (None, "nosuch")


@pytest.mark.parametrize(
    ("name", "fmt", "driver"),
    [
        ("file:a", None, "raw"),
        ("null-co://", None, "raw"),
        ("null-co://", "null-co", "null-co"),
        ("a", "file", "file"),
        ('json:{"driver": "null-aio", "size": 512}', None, "null-aio"),
        ('json:{"driver": "raw", "file.filename": "a"}', None, "raw"),
        ('json:{"driver": "raw", "file": {"driver": "file", "filename": "a"}}', "raw", "raw"),
    ],
)
async def test_open_image_takes_every_kind_of_name(blockdev, name, fmt, driver):
    image("a")
    node = await blockdev.open_image(name, None, fmt)
    assert node.driver.format_name == driver


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("foo:bar", "Unknown protocol 'foo'"),
        ("json:{}", "Must specify either driver or file"),
        ("json:[]", "Invalid JSON object given"),
        ("vmdk", "Unknown driver 'vmdk'"),
    ],
)
async def test_open_image_refuses_other_names(blockdev, name, message):
    Path("vmdk").write_bytes(b"KDMV" + bytes(1000))
    with refused(message):
        await blockdev.open_image(name)
    assert (blockdev.graph.nodes, open_files()) == ({}, 0)


async def test_image_probed_as_raw_cannot_be_made_another_format(blockdev):
    image("a")
    node = await blockdev.open_image("a")
    guest = BlockBackend(blockdev.graph, perm=READ_WRITE)
    guest.insert(node)
    for offset, data in ((0, b"QFI\xfb"), (1, b"FI\xfb"), (64, b"\x7f\x10\xda\xbe")):
        if offset == 1:
            await guest.pwrite(0, b"Q")
        with pytest.raises(PermissionError):
            await guest.pwrite(offset, data)
    await guest.pwrite(0, b"x" * 2048)
    await guest.pwrite(512, b"QFI\xfb")
    assert Path("a").read_bytes()[:516] == b"x" * 512 + b"QFI\xfb"
    guest.remove()
    await blockdev.graph.settled()


async def test_set_read_only_reopens_the_image_and_its_file(blockdev):
    image("a", "b\ntoy")
    image("b")
    top = await blockdev.add(toy("top", "a"))
    file = top.children["file"].node
    await blockdev.set_read_only(top, True)
    assert (top.read_only, file.read_only, file.driver.file.read_only) == (True, True, True)
    assert file.held == (P.CONSISTENT_READ, P.CONSISTENT_READ | P.WRITE_UNCHANGED)
    base = top.backing
    await blockdev.set_read_only(base, False)
    assert not base.children["file"].node.driver.file.read_only
    edge = blockdev.graph.attach(Root(), base, perm=READ_WRITE)
    await edge.pwrite(600, b"x")
    assert Path("b").read_bytes()[600:601] == b"x"
    assert top.read_only


async def test_set_read_only_under_a_writer_is_refused(blockdev):
    image("a")
    top = await blockdev.add(toy("top", "a"))
    edge = blockdev.graph.attach(Root(), top, perm=READ_WRITE)
    with refused("Read-only block node 'top' cannot support read-write users"):
        await blockdev.set_read_only(top, True)
    assert not top.read_only
    await edge.pwrite(600, b"x")


async def test_set_writable_that_fails_stays_read_only(blockdev):
    image("a")
    top = await blockdev.add(toy("top", "a", **{"read-only": True}))
    file = top.children["file"].node
    Path("a").rename("moved")
    with refused("Could not open 'a': No such file or directory"):
        await blockdev.set_read_only(top, False)
    assert (top.read_only, file.read_only) == (True, True)
    assert await top.pread(0, 1) == b"\0"


async def test_close_all_closes_parents_first(blockdev, monkeypatch):
    image("a", "b\ntoy")
    image("b")
    closed = []
    monkeypatch.setattr(HeaderDriver, "close", lambda self: note(closed, self.filename_of()))
    monkeypatch.setattr(HeaderDriver, "filename_of", lambda self: self.file.node.filename, False)
    await blockdev.add(toy("top", "a"))
    await blockdev.add({"driver": "null-co", "node-name": "n"})
    await blockdev.close_all()
    assert closed == ["a", "b"]
    assert (blockdev.graph.nodes, open_files()) == ({}, 0)


async def note(where, what):
    where.append(what)


async def test_format_driver_of_the_fakes_is_no_driver_of_the_program(blockdev):
    with refused("Unknown driver 'format'"):
        await blockdev.open({"driver": FormatDriver.format_name})
