"""From members that a command line or a name gives to the model of a driver."""

from __future__ import annotations

from typing import Any

import pytest

from blkxact.blockdev.blockdev import Blockdev
from blkxact.drivers.driver_options import PlainOptions
from blkxact.drivers.file import FileDriver
from blkxact.drivers.null import NullDriver
from blkxact.drivers.qcow2.driver import Qcow2Driver
from blkxact.drivers.raw import RawDriver
from blkxact.errors import QmpError
from blkxact.qapi.blockdev import BlockdevOptionsNull, BlockdevOptionsQcow2
from blkxact.qapi.validation import validate
from tests.environment import environment, options_of

FILE = {"file": None}
NULL = {"driver": "null-co"}


def test_texts_become_what_the_schema_has() -> None:
    raw = options_of(RawDriver, FILE, offset="512k", size="1M")
    assert (raw.offset, raw.size) == (512 << 10, 1 << 20)
    qcow2 = options_of(Qcow2Driver, FILE, lazy_refcounts="on", l2_cache_size="2M")
    assert isinstance(qcow2, BlockdevOptionsQcow2)
    assert (qcow2.lazy_refcounts, qcow2.l2_cache_size) == (True, 2 << 20)
    assert qcow2.file == "child"


def test_defaults_are_those_of_the_schema() -> None:
    null = options_of(NullDriver, {})
    assert null == validate(BlockdevOptionsNull, NULL)


def test_a_plain_name_needs_no_schema() -> None:
    for options in (options_of(FileDriver, {}, filename="a"), options_of(Qcow2Driver, FILE)):
        assert isinstance(options, PlainOptions)
        assert options.locking is None
    assert not isinstance(options_of(FileDriver, {}, filename="a", locking="off"), PlainOptions)


NOT_SIZE = "Parameter '{}' expects a non-negative number below 2^64"
RULE = {"inject-error": [{"event": "x"}]}
WRONG = [  # as ``-drive`` of QEMU 7.2 says it
    ({**NULL, "size": "x"}, NOT_SIZE.format("size")),
    ({**NULL, "latency-ns": "-1"}, "latency-ns is invalid"),
    ({**NULL, "read-zeroes": "x"}, "Parameter 'read-zeroes' expects 'on' or 'off'"),
    ({**NULL, "read-only": "x"}, "Parameter 'read-only' expects 'on' or 'off'"),
    ({**NULL, "foo": {"bar": "1"}, "baz": "2"},
     "Block protocol 'null-co' doesn't support the option 'baz'"),
    ({"driver": "raw", "file": NULL, "foo": "1"},
     "Block format 'raw' does not support the option 'foo'"),
    ({"driver": "raw", "file": NULL, "size": "x"}, NOT_SIZE.format("size")),
    ({"driver": "file"}, "The 'file' block driver requires a file name"),
    ({"driver": "throttle", "file": NULL}, "Please specify a throttle group"),
    ({"driver": "nbd"}, "NBD server address missing"),
    ({"driver": "nbd", "host": "a", "path": "b"}, "path and host may not be used at the same time"),
    ({"driver": "blkdebug", "image": NULL, **RULE}, "invalid parameter value: x"),
    ({"driver": "blkdebug", "image": NULL, "align": "x"}, NOT_SIZE.format("align")),
]  # fmt: skip


@pytest.mark.parametrize(("members", "text"), WRONG)
async def test_what_is_wrong_is_refused_with_nothing_left(
    members: dict[str, Any], text: str
) -> None:
    blockdev = Blockdev(environment())
    with pytest.raises(QmpError) as caught:
        await blockdev.open(members)
    assert caught.value.desc == text
    assert not blockdev.graph.nodes
