"""blkdebug: rules, states, limits and breakpoints."""

from __future__ import annotations

import asyncio
import errno

import pytest

from blkxact.block.types import Permission
from blkxact.drivers.blkdebug import BlkdebugDriver, cut, cut_aligned
from blkxact.drivers.blkdebug_rules import parse_config
from blkxact.enums import BlkdebugEvent
from blkxact.errors import QmpError
from blkxact.qapi.blockdev import BlkdebugInjectErrorOptions, BlkdebugSetStateOptions
from blkxact.testing.waiting import until_idle
from tests.environment import options_of
from tests.memory_disks import KIB, MemoryDisks

LENGTH = 1024 * KIB


class Debugged:
    """disk <- dbg, with a guest above."""

    async def open(self, config=None, **options):
        self.disks = MemoryDisks()
        self.disk = self.disks.disk("disk", LENGTH)
        node = self.disks.filter_node("dbg", {"image": "disk"})
        self.node = node
        context = self.disks.context("dbg")
        if config is not None:
            context = context._replace(env=context.env._replace(storage=ConfigStorage(config)))
            options["config"] = "rules.conf"
        given = options_of(BlkdebugDriver, node.children, **options)
        self.driver = await BlkdebugDriver.open(context, given, node.children)
        self.disks.opened(node, self.driver)
        self.guest = self.disks.guest("dbg")
        self.disk.log.clear()
        return self

    async def outcome(self, request):
        """0 or the errno of a request."""
        try:
            await request
        except OSError as error:
            return error.errno
        return 0


class ConfigStorage:
    def __init__(self, text):
        self.text = text

    async def open(self, path, *, read_only=False):
        if self.text is OSError:
            raise FileNotFoundError(errno.ENOENT, "gone")
        return self

    def size(self):
        return len(self.text)

    async def pread(self, offset, length):
        return self.text.encode()[offset : offset + length]

    async def close(self):
        pass


async def debugged(**options):
    return await Debugged().open(**options)


async def test_blkdebug_without_rules_passes_everything():
    disks = await debugged()
    await disks.guest.pwrite(0, b"abc")
    assert await disks.guest.pread(0, 3) == b"abc"
    await disks.guest.flush()
    assert disks.node.length == LENGTH


async def test_blkdebug_error_stays_until_another_rule_arms():
    disks = await debugged(inject_error=[{"event": "write_aio"}])
    assert await disks.outcome(disks.guest.pread(0, 512)) == 0
    await disks.driver.debug_event("write_aio")
    assert await disks.outcome(disks.guest.pread(0, 512)) == errno.EIO
    await disks.driver.debug_event("read_aio")
    assert await disks.outcome(disks.guest.pwrite(0, b"x")) == errno.EIO
    assert await disks.outcome(disks.guest.pwrite_zeroes(0, 512)) == errno.EIO
    assert await disks.outcome(disks.driver.flush()) == errno.EIO


@pytest.mark.parametrize("immediately", [True, False])
async def test_blkdebug_once_fails_one_request_for_ever(immediately):
    rule = {"event": "none", "once": True, "errno": 28, "immediately": immediately}
    disks = await debugged(inject_error=[rule])
    assert await disks.outcome(disks.guest.pread(0, 512)) == errno.ENOSPC
    assert await disks.outcome(disks.guest.pread(0, 512)) == 0
    await disks.driver.debug_event("none")
    assert await disks.outcome(disks.guest.pread(0, 512)) == 0


@pytest.mark.parametrize(
    ("iotype", "failing"),
    [
        ("read", {"read"}),
        ("write", {"write"}),
        ("write-zeroes", {"zeroes"}),
        ("discard", {"discard"}),
        ("flush", {"flush"}),
        ("block-status", {"status"}),
        (None, {"read", "write", "zeroes", "discard", "flush"}),
    ],
)
async def test_blkdebug_iotype_chooses_requests(iotype, failing):
    rule = {"event": "none"} | ({"iotype": iotype} if iotype else {})
    disks = await debugged(inject_error=[rule])
    disks.node.discard = True
    requests = {
        "read": disks.guest.pread(0, 512),
        "write": disks.guest.pwrite(0, bytes(512)),
        "zeroes": disks.guest.pwrite_zeroes(0, 512),
        "discard": disks.guest.pdiscard(0, 512),
        "flush": disks.driver.flush(),
        "status": disks.guest.block_status(0, 512),
    }
    failed = {name for name, request in requests.items() if await disks.outcome(request)}
    assert failed == failing


async def test_blkdebug_sector_chooses_requests():
    disks = await debugged(inject_error=[{"event": "none", "sector": 3}])
    assert await disks.outcome(disks.guest.pread(0, 3 * 512)) == 0
    assert await disks.outcome(disks.guest.pread(0, 3 * 512 + 1)) == errno.EIO
    assert await disks.outcome(disks.guest.pread(4 * 512, 512)) == 0
    assert await disks.outcome(disks.driver.flush()) == 0


async def test_blkdebug_states_lead_to_error():
    disks = await debugged(
        set_state=[
            {"event": "l2_load", "state": 1, "new_state": 2},
            {"event": "l2_load", "state": 2, "new_state": 3},
        ],
        inject_error=[{"event": "read_aio", "state": 3}],
    )
    outcomes = []
    for _ in range(3):
        await disks.driver.debug_event("read_aio")
        outcomes.append(await disks.outcome(disks.guest.pread(0, 512)))
        await disks.driver.debug_event("l2_load")
    assert outcomes == [0, 0, errno.EIO]


async def test_blkdebug_first_of_armed_errors_wins():
    disks = await debugged(
        inject_error=[
            {"event": "none", "errno": 5, "once": True},
            {"event": "none", "errno": 28},
        ]
    )
    outcomes = [await disks.outcome(disks.guest.pread(0, 512)) for _ in range(3)]
    assert outcomes == [errno.EIO, errno.ENOSPC, errno.ENOSPC]


async def test_blkdebug_errno_zero_injects_nothing():
    disks = await debugged(inject_error=[{"event": "none", "errno": 0}])
    assert await disks.outcome(disks.guest.pread(0, 512)) == 0


async def test_blkdebug_extents_have_no_place():
    disks = await debugged()
    disks.disk.fill(0, b"x" * 4096)
    (data, _) = await disks.node.block_status(0, LENGTH)
    assert data.file is None
    (below, _) = await disks.disks.graph.nodes["disk"].block_status(0, LENGTH)
    assert below.file is not None


# Limits


async def test_blkdebug_max_transfer_cuts_requests():
    disks = await debugged(max_transfer=1536)
    await disks.guest.pwrite(0, b"w" * 4096)
    await disks.guest.pread(512, 2048)
    assert [e for e in disks.disk.log if e[0] in ("read", "write")] == [
        ("write", 0, 1536),
        ("write", 1536, 1536),
        ("write", 3072, 1024),
        ("read", 512, 1536),
        ("read", 2048, 512),
    ]


async def test_blkdebug_align_widens_requests():
    disks = await debugged(align=4096)
    await disks.guest.pread(512, 512)
    assert disks.disk.log == [("read", 0, 4096)]


async def test_blkdebug_zeroes_below_optimum_are_written():
    disks = await debugged(opt_write_zero=64 * KIB, max_write_zero=128 * KIB)
    await disks.guest.pwrite_zeroes(60 * KIB, 264 * KIB)
    assert disks.disk.log == [
        ("write", 60 * KIB, 4 * KIB),
        ("zero", 64 * KIB, 128 * KIB),
        ("zero", 192 * KIB, 128 * KIB),
        ("write", 320 * KIB, 4 * KIB),
    ]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"align": 3}, "Cannot meet constraints with align 3"),
        ({"align": -1}, "Cannot meet constraints with align 18446744073709551615"),
        ({"align": 1 << 31}, "Cannot meet constraints with align 2147483648"),
        ({"align": 512, "max_transfer": 700}, "Cannot meet constraints with max-transfer 700"),
        (
            {"align": 512, "opt_write_zero": 1024, "max_write_zero": 1536},
            "Cannot meet constraints with max-write-zero 1536",
        ),
        ({"align": 512, "opt_discard": 5}, "Cannot meet constraints with opt-discard 5"),
    ],
)
async def test_blkdebug_limits_that_contradict_are_refused(options, message):
    with pytest.raises(QmpError) as caught:
        await debugged(**options)
    assert caught.value.desc == message


def test_cut_pieces_cover_the_request():
    assert list(cut(10, 25, 10)) == [(10, 10), (20, 10), (30, 5)]
    assert list(cut(10, 25, 0)) == [(10, 25)]
    assert list(cut(10, 0, 0)) == []


@pytest.mark.parametrize(
    ("offset", "length", "expected"),
    [
        (0, 16, [(0, 16)]),
        (3, 2, [(3, 2)]),
        (3, 10, [(3, 5), (8, 5)]),
        (3, 21, [(3, 5), (8, 16)]),
        (6, 30, [(6, 2), (8, 16), (24, 8), (32, 4)]),
    ],
)
def test_cut_aligned_splits_head_and_tail(offset, length, expected):
    assert list(cut_aligned(offset, length, 8, 16)) == expected


# Permissions


async def test_blkdebug_takes_and_unshares_permissions():
    disks = await debugged(
        take_child_perms=["resize"], unshare_child_perms=["write", "write-unchanged"]
    )
    edge = disks.node.children["image"]
    assert edge.perm & Permission.RESIZE
    assert not edge.shared & (Permission.WRITE | Permission.WRITE_UNCHANGED)
    with pytest.raises(QmpError, match="unshared by node 'dbg'"):
        disks.disks.edge("disk", Permission.WRITE)


# Breakpoints


async def test_blkdebug_breakpoint_suspends_once_until_resumed():
    disks = await debugged()
    disks.driver.rules.add_breakpoint("pwritev", "A")
    write = asyncio.create_task(disks.guest.pwrite(0, b"x"))
    await disks.driver.rules.wait_suspended("A")
    assert not write.done()
    assert disks.node.in_flight == 1
    await disks.guest.pwrite(512, b"y")
    disks.driver.rules.resume("A")
    await write
    assert not disks.driver.rules.is_suspended("A")


async def test_blkdebug_resume_takes_one_request_the_latest():
    disks = await debugged()
    ended = []

    async def write(number):
        await disks.guest.pwrite(512 * number, b"x")
        ended.append(number)

    tasks = []
    for number in range(3):
        disks.driver.rules.add_breakpoint("pwritev", "A")
        tasks.append(asyncio.create_task(write(number)))
        await until_idle()
    disks.driver.rules.resume("A")
    await tasks[2]
    assert ended == [2]
    disks.driver.rules.remove_breakpoint("A")
    await asyncio.gather(*tasks)


async def test_blkdebug_remove_breakpoint_removes_and_resumes():
    disks = await debugged()
    disks.driver.rules.add_breakpoint("pwritev", "A")
    disks.driver.rules.remove_breakpoint("A")
    await disks.guest.pwrite(0, b"x")
    with pytest.raises(OSError, match="No such file"):
        disks.driver.rules.remove_breakpoint("A")
    with pytest.raises(OSError, match="No such file"):
        disks.driver.rules.resume("A")


async def test_blkdebug_breakpoint_on_unknown_event_is_refused():
    disks = await debugged()
    with pytest.raises(OSError, match="No such file"):
        disks.driver.rules.add_breakpoint("nope", "A")


async def test_blkdebug_cancelled_request_leaves_no_suspension():
    disks = await debugged()
    disks.driver.rules.add_breakpoint("pwritev", "A")
    write = asyncio.create_task(disks.guest.pwrite(0, b"x"))
    await disks.driver.rules.wait_suspended("A")
    write.cancel()
    with pytest.raises(asyncio.CancelledError):
        await write
    assert not disks.driver.rules.is_suspended("A")


# Configuration file and names


CONFIG = """\
# a comment
[inject-error]
event = "none"
errno = "0x1c"
once = "on"

[set-state]
event = "l2_load"
state = "1"
new_state = "2"
"""


async def test_blkdebug_config_file_gives_rules():
    disks = await debugged(config=CONFIG)
    assert await disks.outcome(disks.guest.pread(0, 512)) == errno.ENOSPC
    assert await disks.outcome(disks.guest.pread(0, 512)) == 0
    await disks.driver.debug_event("l2_load")
    assert disks.driver.rules.state == 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (OSError, "Could not read blkdebug config file: No such file or directory"),
        ("[nope]\n", "There is no option group 'nope'"),
        ('event = "none"\n', "no group defined"),
        ("[set-state]\nevent\n", "parse error"),
        ('[set-state]\nnope = "1"\n', "Invalid parameter 'nope'"),
        ('[set-state]\nstate = "x"\n', "Parameter 'state' expects a number"),
        ('[inject-error]\nonce = "x"\n', "Parameter 'once' expects 'on' or 'off'"),
        ('[inject-error]\nerrno = "5"\n', "Missing event name for rule"),
        ('[inject-error]\nevent = "nope"\n', "invalid parameter value: nope"),
    ],
)
async def test_blkdebug_bad_config_file_is_refused(text, message):
    with pytest.raises(QmpError) as caught:
        await debugged(config=text)
    assert caught.value.desc == message


def test_parse_config_keeps_order_of_sections():
    kinds = [type(section) for section in parse_config(CONFIG)]
    assert kinds == [BlkdebugInjectErrorOptions, BlkdebugSetStateOptions]


def test_blkdebug_parse_filename_takes_config_and_image():
    parse = BlkdebugDriver.parse_filename
    assert parse("blkdebug:c.conf:a.img") == {
        "driver": "blkdebug",
        "image": {"filename": "a.img"},
        "config": "c.conf",
    }
    assert parse("blkdebug::a.img") == {"driver": "blkdebug", "image": {"filename": "a.img"}}
    with pytest.raises(QmpError, match="requires both config file and image path"):
        parse("blkdebug:c.conf")


def test_blkdebug_knows_all_events_of_qemu():
    assert len(BlkdebugEvent) == 48
