"""qemu-io inside the monitor, over disks in memory."""

from __future__ import annotations

import asyncio
import errno
import os

import pytest
from monitored_layer import Layer
from tests.memory_disks import Gate, failing

from blkxact.block.types import Permission


@pytest.fixture
async def layer():
    return await Layer().open()


def wrote(length, offset=0, size="64 KiB"):
    return f"wrote {length}/{length} bytes at offset {offset}\n{size}, 1 T\n"


def read(length, offset=0, size="64 KiB"):
    return f"read {length}/{length} bytes at offset {offset}\n{size}, 1 T\n"


async def test_write_and_read_with_pattern(layer):
    assert await layer.io("write -P 5 4k 64k") == wrote(65536, 4096)
    assert bytes(layer.disk.file.data[4096 : 4096 + 65536]) == b"\5" * 65536
    assert await layer.io("read -P 5 4k 64k") == read(65536, 4096)
    assert await layer.io("read -P 6 4k 64k") == (
        "Pattern verification failed at offset 4096, 65536 bytes\n" + read(65536, 4096)
    )


async def test_read_pattern_of_a_part(layer):
    await layer.io("write -P 5 64k 1k")
    assert "failed" not in await layer.io("read -P 5 -s 64k -l 1k 0 128k")
    assert await layer.io("read -qP 5 -s 63k -l 2k 0 128k") == (
        "Pattern verification failed at offset 64512, 2048 bytes\n"
    )


async def test_read_verbose_dumps(layer):
    await layer.io("write -P 65 0 20")
    assert (await layer.io("read -v 0 20")).startswith(
        "00000000:  " + "41 " * 16 + " AAAAAAAAAAAAAAAA\n00000010:  41 41 41 41  AAAA\nread 20/20"
    )


async def test_write_without_pattern_writes_cd(layer):
    await layer.io("w 0 3")
    assert bytes(layer.disk.file.data[:4]) == b"\xcd\xcd\xcd\0"


async def test_write_zeroes_quiet(layer):
    await layer.io("write 0 64k")
    assert await layer.io("write -zq 0 64k") == ""
    assert ("zero", 0, 65536) in layer.disk.log
    assert await layer.io("read -qP 0 0 64k") == ""


async def test_vectors_are_one_request(layer):
    assert await layer.io("writev -P 7 0 1k 3k") == wrote(4096, size="4 KiB")
    assert await layer.io("readv -P 7 0 2k 2k") == read(4096, size="4 KiB")
    writes = [e for e in layer.disk.log if e[0] == "write"]
    assert writes == [("write", 0, 4096)]


async def test_machine_readable_figures(layer):
    assert await layer.io("write -C 0 64k") == "65536,1T\n"


async def test_discard_and_flush(layer):
    assert await layer.io("discard 0 64k") == (
        "discard 65536/65536 bytes at offset 0\n64 KiB, 1 T\n"
    )
    await layer.io("write 0 512")
    assert await layer.io("flush") == ""
    assert ("flush", 0, 0) in layer.disk.log


FAILING = [
    ("write 0 2M", "write failed: Input/output error\n"),
    ("read 2M 0", "read failed: Input/output error\n"),
    ("readv 2M 512", "readv failed: Input/output error\n"),
    ("writev 2M 512", "writev failed: Input/output error\n"),
    ("discard 0 2M", "discard failed: Input/output error\n"),
    ("read -b 0 512", "read failed: Operation not supported\n"),
    ("write -b 0 512", "write failed: Operation not supported\n"),
    ("write -c 0 64k", "write failed: Operation not supported\n"),
    ("bogus", 'command "bogus" not found\n'),
    ("read", "bad argument count 0 to read, expected at least 2 arguments\n"),
    ("break a b c", "bad argument count 3 to break, expected 2 arguments\n"),
    ("alloc", "bad argument count 0 to alloc, expected between 1 and 2 arguments\n"),
    ("read 0 3g", "length cannot exceed 2147483136, given 3g\n"),
    ("write 0 3g", "length cannot exceed 2147483136 without -n, given 3g\n"),
    ("discard 0 4g", "length cannot exceed 2147483136, given 4g\n"),
    ("readv 0 3g", "Argument '3g' exceeds maximum size 2147483136\n"),
    ("readv 0 1g 1g", "The total number of bytes exceed the maximum size 2147483136\n"),
    ("read -P 5 -s 64k -l 1k 0 32k", "pattern verification range exceeds end of read data\n"),
    ("write -bz 0 512", "-b and -z cannot be specified at the same time\n"),
    ("write -fc 0 512", "-f and -b or -c cannot be specified at the same time\n"),
    ("write -n 0 512", "-n requires -z to be specified\n"),
    ("write -u 0 512", "-u requires -z to be specified\n"),
    ("write -zP 1 0 1", "Only one of -z, -P, and -s can be specified at the same time\n"),
    ("write -b 1 512", "1 is not a sector-aligned value for 'offset'\n"),
    ("write -c 0 100", "100 is not a sector-aligned value for 'count'\n"),
    ("aio_write -z 0 1 2", "-z supports only a single length parameter\n"),
    ("aio_write -u 0 1", "-u requires -z to be specified\n"),
    ("aio_write -zP 1 0 1", "-z and -P cannot be specified at the same time\n"),
    ("aio_read -i 0 1", "injecting invalid read request\n"),
    ("aio_write -i 0 1", "injecting invalid write request\n"),
    ("sleep x", "x is not a valid number\n"),
    ("help nope", "command nope not found\n"),
    ("break nope A", "Could not set breakpoint: No such file or directory\n"),
    ("resume A", "Could not resume request: No such file or directory\n"),
    ("remove_break A", "Could not remove breakpoint A: No such file or directory\n"),
]


@pytest.mark.parametrize(("command", "text"), FAILING, ids=[c for c, _ in FAILING])
async def test_refused_command_says_why_and_changes_nothing(layer, command, text):
    before = bytes(layer.disk.file.data)
    assert await layer.io(command) == text
    assert bytes(layer.disk.file.data) == before


@pytest.mark.parametrize("command", ["read 0 512 1", "read -s 1 0 512", "truncate -5"])
async def test_wrong_use_shows_usage(layer, command):
    assert f"{command.split()[0]} [-" in await layer.io(command)


@pytest.mark.parametrize("command", ["abort", "sigraise 9"])
async def test_commands_that_end_the_process_are_refused(layer, command):
    assert "is refused" in await layer.io(command)


@pytest.mark.parametrize("command", ["", "   "])
async def test_empty_command_does_nothing(layer, command):
    assert await layer.io(command) == ""


async def test_help_lists_every_command(layer):
    lines = (await layer.io("help")).splitlines()
    assert len(lines) == 23
    assert (await layer.io("help r")).startswith("read [-")


# The image


async def test_length_info_alloc_and_map(layer):
    assert await layer.io("length") == "1 MiB\n"
    assert await layer.io("info", "other") == (
        "format name: memory\ncluster size: 0 bytes\nvm state offset: 0 bytes\n"
    )
    await layer.io("write 64k 64k", "other")
    assert await layer.io("alloc 64k 128k", "other") == (
        "65536/131072 bytes allocated at offset 64 KiB\n"
    )
    assert await layer.io("alloc 1M", "other") == "0/0 bytes allocated at offset 1 MiB\n"
    assert await layer.io("map", "other") == (
        "64 KiB (0x10000) bytes not allocated at offset 0 bytes (0x0)\n"
        "64 KiB (0x10000) bytes     allocated at offset 64 KiB (0x10000)\n"
        "896 KiB (0xe0000) bytes not allocated at offset 128 KiB (0x20000)\n"
    )


async def test_truncate_errors_are_in_the_reply(layer):
    assert await layer.hmp('qemu-io d0 "truncate -m foo 1M"') == (
        "Invalid preallocation mode 'foo'\r\n"
    )
    assert await layer.hmp('qemu-io other "truncate 2M"') == (
        "Image format driver does not support resize\r\n"
    )


async def test_write_on_read_only_node_is_refused_in_the_reply(layer):
    layer.other.read_only = True
    assert await layer.hmp('qemu-io other "write 0 1"') == "Block node is read-only\r\n"
    assert layer.printed == []


# Which backend


async def test_device_keeps_permission_to_write_but_read_takes_none(layer):
    backend = layer.backends[0]
    await layer.io("read 0 1")
    assert backend.perm == Permission.CONSISTENT_READ
    await layer.io("write 0 1")
    assert backend.perm == Permission.CONSISTENT_READ | Permission.WRITE


async def test_device_by_qdev_id(layer):
    assert await layer.hmp('qemu-io -d q0 "write -q 0 1"') == ""
    assert layer.disk.file.data[0] == 0xCD
    assert await layer.hmp('qemu-io -d nope "read 0 1"') == "Error: Device 'nope' not found\r\n"


async def test_node_gets_a_backend_for_the_command_only(layer):
    node = layer.graph.nodes["other"]
    assert await layer.io("write 0 64k", "other") == wrote(65536)
    assert not node.parents
    assert await layer.hmp('qemu-io nope "read 0 1"') == (
        "Error: Cannot find device='' nor node-name='nope'\r\n"
    )


async def test_device_without_medium_fails_requests(layer):
    layer.add_device("empty", None)
    assert await layer.io("read 0 1", "empty") == f"read failed: {os.strerror(errno.ENOMEDIUM)}\n"
    assert await layer.io("info", "empty") == "No medium found\n"
    assert await layer.io("length", "empty") == "getlength: No medium found\n"


# Requests that go on


async def test_aio_requests_report_when_they_end(layer):
    layer.disk.hook = gate = Gate("write")
    assert await layer.io("aio_write -P 3 0 64k") == ""
    await gate.arrived.wait()
    assert layer.backends[0].in_flight == 1
    gate.opened.set()
    assert await layer.io("aio_flush") == wrote(65536)
    await layer.io("aio_read -P 4 0 64k")
    await layer.hmp('qemu-io d0 "aio_flush"')
    assert layer.output() == (
        "Pattern verification failed at offset 0, 65536 bytes\n" + read(65536)
    )


async def test_aio_failures_are_printed(layer):
    layer.disk.hook = failing("write", 0, errno.ENOSPC)
    await layer.io("aio_write 0 64k")
    await layer.hmp('qemu-io d0 "aio_flush"')
    assert layer.output() == "aio_write failed: No space left on device\n"
    await layer.io("aio_read 0 4M")
    await layer.hmp('qemu-io d0 "aio_flush"')
    assert layer.output() == "readv failed: Input/output error\n"


async def test_without_console_everything_is_replied():
    layer = await Layer(console=False).open()
    reply = await layer.hmp('qemu-io d0 "write -P 5 0 64k"')
    assert reply.startswith("wrote 65536/65536 bytes at offset 0\r\n64 KiB")
    assert await layer.hmp('qemu-io d0 "aio_write -P 5 0 64k"') == ""
    assert (await layer.hmp('qemu-io d0 "aio_flush"')).startswith("wrote 65536/65536")
    assert await layer.hmp('qemu-io d0 "aio_flush"') == ""


async def test_aio_on_node_ends_before_the_reply(layer):
    assert await layer.io("aio_write -z 0 64k", "other") == wrote(65536)
    assert not layer.graph.nodes["other"].parents


# Breakpoints


async def test_breakpoint_holds_aio_until_resumed(layer):
    await layer.io("break pwritev A")
    await layer.io("aio_write -P 9 0 64k")
    await layer.io("wait_break A")
    assert not layer.disk.log
    assert await layer.io("read -P 0 0 64k") == read(65536)
    assert await layer.io("resume A") == ""
    await layer.hmp('qemu-io d0 "aio_flush"')
    assert layer.disk.file.data[0] == 9


async def test_breakpoint_holding_a_sync_write_does_not_hold_other_sessions(layer):
    await layer.io("break pwritev A")
    stuck = asyncio.create_task(layer.io("write 0 64k"))
    await asyncio.wait_for(layer.hmp('qemu-io d0 "wait_break A"'), 5)
    assert not stuck.done()
    assert not layer.lock.locked()
    await layer.hmp('qemu-io d0 "resume A"')
    assert await stuck == wrote(65536)
    assert not layer.lock.locked()


async def test_breakpoint_holding_aio_on_a_node_does_not_hold_the_monitor(layer):
    await layer.io("break pwritev A", "dbg")
    await asyncio.wait_for(layer.io("aio_write 0 64k", "dbg"), 5)
    parents = layer.graph.nodes["dbg"].parents
    assert len(parents) == 2
    await layer.io("resume A", "dbg")
    await layer.hmp('qemu-io d0 "aio_flush"')
    assert len(layer.graph.nodes["dbg"].parents) == 1


async def test_remove_break_lets_the_held_go(layer):
    await layer.io("break pwritev A")
    await layer.io("aio_write 0 64k")
    await layer.io("remove_break A")
    await layer.hmp('qemu-io d0 "aio_flush"')
    assert layer.output() == wrote(65536)


@pytest.mark.parametrize(
    ("command", "text"),
    [
        ("break pwritev A", "Could not set breakpoint: Operation not supported\n"),
        ("resume A", "Could not resume request: Operation not supported\n"),
        ("remove_break A", "Could not remove breakpoint A: Operation not supported\n"),
        ("wait_break A", "Could not wait for breakpoint: Operation not supported\n"),
    ],
)
async def test_breakpoints_without_blkdebug_are_not_supported(layer, command, text):
    assert await layer.io(command, "other") == text


class SlowClock:
    """A clock whose sleepers wake when the test says so."""

    def __init__(self):
        self.asked: list[float] = []
        self.sleeping, self.woken = asyncio.Event(), asyncio.Event()

    def monotonic(self):
        return 0.0

    async def sleep(self, seconds):
        self.asked.append(seconds)
        self.sleeping.set()
        await self.woken.wait()


async def test_sleep_waits_on_the_clock_with_the_lock_let_go(layer):
    layer.clock = clock = SlowClock()
    sleeper = asyncio.create_task(layer.io("sleep 250"))
    await clock.sleeping.wait()
    assert clock.asked == [0.25]
    assert await layer.hmp('qemu-io d0 "read -q 0 1"') == ""
    clock.woken.set()
    await sleeper


async def test_write_from_file_repeats_it(layer):
    class Pattern:
        def size(self):
            return 3

        async def pread(self, offset, length):
            return b"abc"[offset : offset + length]

        async def close(self):
            pass

    class Storage:
        async def open(self, path, *, read_only):
            if path != "pattern":
                raise FileNotFoundError(errno.ENOENT, "gone")
            return Pattern()

    layer.storage = Storage()
    await layer.io("write -s pattern 0 8")
    assert bytes(layer.disk.file.data[:9]) == b"abcabcab\0"
    assert await layer.io("write -s nope 0 8") == "nope: No such file or directory\n"
