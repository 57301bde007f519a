"""Command lines of the human monitor: parsing, the table, info, commit."""

from __future__ import annotations

import errno
from datetime import datetime

import pytest
from monitored_layer import MIB, Layer
from tests.memory_disks import HOLE, failing

from blkxact.hmp.command_line import Flag, HmpRefusal, Scanner, Word, parse_arguments
from blkxact.hmp.info import describe, describe_image
from blkxact.runtime.release import DEFAULT_RELEASE, RELEASES


@pytest.fixture
async def layer():
    return await Layer().open()


ARGUMENTS = (Flag("qdev", "d"), Word("device", "block device name"), Word("command", optional=True))


@pytest.mark.parametrize(
    ("line", "values"),
    [
        ("d0", {"device": "d0"}),
        ("  d0   foo  ", {"device": "d0", "command": "foo"}),
        ("-d d0 'foo", {"qdev": True, "device": "d0", "command": "'foo"}),
        ('"a b" "c\\n\\"d\\\\"', {"device": "a b", "command": 'c\n"d\\'}),
        ('d0 ""', {"device": "d0", "command": ""}),
    ],
)
def test_parse_arguments_words_quotes_and_flags(line, values):
    assert parse_arguments("x", ARGUMENTS, Scanner(line, print)) == values


@pytest.mark.parametrize(
    ("line", "refusal", "complaint"),
    [
        ("", "x: block device name expected\n", ""),
        ("-x d0", "x: unsupported option -x\n", ""),
        ("d0 a b", "x: extraneous characters at the end of line\n", ""),
        ('d0 "a\\tb"', "x: string expected\n", "unsupported escape code: '\\t'\n"),
        ('d0 "a', "x: string expected\n", "unterminated string\n"),
    ],
)
def test_parse_arguments_refuses_in_qemus_words(line, refusal, complaint):
    complaints = []
    with pytest.raises(HmpRefusal) as caught:
        parse_arguments("x", ARGUMENTS, Scanner(line, complaints.append))
    assert str(caught.value) == refusal
    assert "".join(complaints) == complaint


@pytest.mark.parametrize(
    ("line", "reply"),
    [
        ("", ""),
        ("   ", ""),
        ("bogus", "unknown command: 'bogus'\r\n"),
        ("info bogus", "unknown command: 'info bogus'\r\n"),
        ("help nope", "unknown command: 'nope'\r\n"),
        (
            "qemu-io",
            'qemu-io: block device name expected\r\nTry "help qemu-io" for more information\r\n',
        ),
        ("qemu-io d0", 'qemu-io: string expected\r\nTry "help qemu-io" for more information\r\n'),
        (
            "info block -x",
            'block: unsupported option -x\r\nTry "help info block" for more information\r\n',
        ),
        (
            "commit",
            'commit: block device name expected\r\nTry "help commit" for more information\r\n',
        ),
        ("commit nope", "Device 'nope' not found\r\n"),
        ("commit d0", "'commit' error for 'd0': Operation not supported\r\n"),
    ],
)
async def test_run_refuses_in_the_reply(layer, line, reply):
    assert await layer.hmp(line) == reply


@pytest.mark.parametrize("line", ["help", "info", "help info", "?"])
async def test_help_lists_something(layer, line):
    assert (await layer.hmp(line)).count("\r\n") >= 5


# info


def node(name, **more):
    return {
        "node-name": name,
        "file": f"{name}.img",
        "drv": "raw",
        "ro": False,
        "encrypted": False,
        "detect_zeroes": "off",
        "backing_file_depth": 0,
        "cache": {"writeback": True, "direct": False, "no-flush": False},
        "image": {"filename": f"{name}.img", "format": "raw", "virtual-size": MIB},
    } | more


async def test_info_block_devices(layer):
    layer.answers["query-block"] = [
        {
            "device": "d0",
            "removable": True,
            "locked": False,
            "tray_open": False,
            "inserted": node("n0"),
        },
        {"device": "", "qdev": "/q", "removable": False, "io-status": "failed"},
        {"device": "", "qdev": "/r", "removable": False, "inserted": node("n1", ro=True)},
    ]
    assert await layer.hmp("info block") == (
        "d0 (n0): n0.img (raw)\r\n"
        "    Removable device: not locked, tray closed\r\n"
        "    Cache mode:       writeback\r\n"
        "\r\n"
        "/q: [not inserted]\r\n"
        "    Attached to:      /q\r\n"
        "    I/O status:       failed\r\n"
        "\r\n"
        "n1: n1.img (raw, read-only)\r\n"
        "    Attached to:      /r\r\n"
        "    Cache mode:       writeback\r\n"
    )


async def test_info_block_nodes_and_one_node(layer):
    cache = {"writeback": False, "direct": True, "no-flush": True}
    layer.answers["query-block"] = []
    layer.answers["query-named-block-nodes"] = [
        node("n1"),
        node("n0", cache=cache, backing_file="b", backing_file_depth=1, detect_zeroes="on"),
    ]
    both = await layer.hmp("info block -n")
    assert both.startswith("n1: n1.img (raw)\r\n    Cache mode:       writeback\r\n\r\nn0")
    assert await layer.hmp("info block n0") == (
        "\r\nn0: n0.img (raw)\r\n"
        "    Cache mode:       writethrough, direct, ignore flushes\r\n"
        "    Backing file:     b (chain depth: 1)\r\n"
        "    Detect zeroes:    on\r\n"
    )
    assert await layer.hmp("info block nope") == ""


async def test_info_block_verbose_shows_the_chain(layer):
    image = {"filename": "t", "format": "qcow2", "virtual-size": 5 * MIB, "actual-size": 331776}
    image |= {"cluster-size": 65536, "backing-filename": "b", "full-backing-filename": "/x/b"}
    image["backing-image"] = {"filename": "b", "format": "raw", "virtual-size": 5 * MIB}
    layer.answers["query-block"] = [
        {"device": "d0", "removable": False, "inserted": node("n0", image=image)}
    ]
    assert (await layer.hmp("info block -v")).endswith(
        "\r\nImages:\r\n"
        "image: t\r\nfile format: qcow2\r\nvirtual size: 5 MiB (5242880 bytes)\r\n"
        "disk size: 324 KiB\r\ncluster_size: 65536\r\nbacking file: b (actual path: /x/b)\r\n"
        "image: b\r\nfile format: raw\r\nvirtual size: 5 MiB (5242880 bytes)\r\n"
        "disk size: unavailable\r\n"
    )


async def test_info_block_throttling_is_one_line(layer):
    layer.answers["query-block"] = [
        {"device": "d0", "removable": False, "inserted": node("n0", iops=7, group="g")}
    ]
    assert " bps_max=0 " in (text := await layer.hmp("info block"))
    assert text.endswith("iops_size=0 group=g\r\n")


def test_describe_image_backing_without_path():
    image = {"filename": "t", "format": "qcow2", "virtual-size": 0, "backing-filename": "b"}
    image |= {"backing-filename-format": "raw", "dirty-flag": True, "encrypted": True}
    text = describe_image(image, DEFAULT_RELEASE)
    assert "backing file: b (cannot determine actual path)\nbacking file format: raw\n" in text
    assert "encrypted: yes\ncleanly shut down: no\n" in text
    assert "virtual size: 0 B (0 bytes)\n" in text


TABLES = {
    "7.2": """\
ID        TAG               VM SIZE                DATE     VM CLOCK     ICOUNT
1         s0                    0 B 2026-11-27 17:00:00 01:02:03.004           .
""",
    "9.2": """\
ID      TAG               VM_SIZE                DATE        VM_CLOCK     ICOUNT
1       s0                    0 B 2026-11-27 17:00:00  0001:02:03.004         --.
""",
}
"""What lists of snapshots look like, with a full stop at the end of the last line."""


@pytest.mark.parametrize("release", TABLES)
def test_describe_image_lists_snapshots_as_the_release_does(release: str):
    date = datetime(2026, 11, 27, 17).astimezone().timestamp()
    clock = {"vm-clock-sec": 3723, "vm-clock-nsec": 4_000_000}
    snapshot = {"id": "1", "name": "s0", "vm-state-size": 0, "date-sec": int(date), **clock}
    image = {"filename": "t", "format": "qcow2", "virtual-size": 0, "snapshots": [snapshot]}
    text = describe_image(image | {"format-specific": {"data": {}}}, RELEASES[release])
    assert text.endswith("Snapshot list:\n" + TABLES[release].replace(".\n", "\n"))


def test_describe_indents_members_and_lists():
    data = {"compat": "1.1", "lazy-refcounts": False, "bitmaps": [{"name": "b", "flags": ["auto"]}]}
    assert describe(data, 1) == (
        "    compat: 1.1\n"
        "    lazy refcounts: false\n"
        "    bitmaps:\n"
        "        [0]:\n"
        "            name: b\n"
        "            flags:\n"
        "                [0]: auto\n"
    )


async def test_info_block_jobs(layer):
    layer.answers["query-block-jobs"] = []
    assert await layer.hmp("  info   block-jobs  ") == "No active jobs\r\n"
    job = {"type": "backup", "device": "j0", "offset": 1, "len": 2, "speed": 3}
    layer.answers["query-block-jobs"] = [job, job | {"type": "stream"}]
    tail = "j0: Completed 1 of 2 bytes, speed limit 3 bytes/s\r\n"
    assert await layer.hmp("info block-jobs") == (
        f"Type backup, device {tail}Streaming device {tail}"
    )


@pytest.mark.parametrize(
    ("status", "text"),
    [
        ({"running": True, "status": "running"}, "running"),
        ({"running": False, "status": "paused"}, "paused"),
        ({"running": False, "status": "io-error"}, "paused (io-error)"),
    ],
)
async def test_info_status(layer, status, text):
    layer.answers["query-status"] = status
    assert await layer.hmp("info status") == f"VM status: {text}\r\n"


async def test_info_version_and_name(layer):
    qemu = {"major": 7, "minor": 2, "micro": 0}
    layer.answers |= {"query-version": {"qemu": qemu, "package": "-x"}, "query-name": {}}
    assert await layer.hmp("info version") == "7.2.0-x\r\n"
    assert await layer.hmp("info name") == ""


# commit


async def overlay(layer, length=MIB):
    top = layer.disks.disk("top", length)
    base = layer.disks.disk("base", MIB)
    base.fill(0, b"b" * MIB)
    top.fill(4096, b"t" * 4096)
    await top.pwrite_zeroes(8192, 4096)
    layer.disks.backing("top", "base")
    layer.add_device("d1", "top")
    return top, base


@pytest.mark.parametrize("device", ["d1", "all"])
async def test_commit_writes_the_overlay_into_its_backing_file(layer, device):
    top, base = await overlay(layer)
    base.read_only = True
    assert await layer.hmp(f"commit {device}") == ""
    expected = b"b" * 4096 + b"t" * 4096 + bytes(4096) + b"b" * (MIB - 12288)
    assert bytes(base.file.data) == expected
    assert layer.blockdev.asked == [("base", False), ("base", True)]
    node_ = layer.graph.nodes["top"]
    assert node_.backing is layer.graph.nodes["base"]
    assert await node_.pread(0, MIB) == expected
    assert top.kinds.count(HOLE) == MIB // 4096 - 2


async def test_commit_failure_restores_the_chain(layer):
    _, base = await overlay(layer)
    base.hook = failing("copy", 4096, errno.ENOSPC)
    assert await layer.hmp("commit d1") == "'commit' error for 'd1': No space left on device\r\n"
    assert layer.graph.nodes["top"].backing is layer.graph.nodes["base"]
    assert await layer.hmp("commit d1") == ""


async def test_commit_of_device_in_use_by_a_job_is_busy(layer):
    await overlay(layer)
    layer.graph.nodes["top"].blockers.block_all("job")
    assert await layer.hmp("commit d1") == "'commit' error for 'd1': Device or resource busy\r\n"


async def test_commit_without_medium(layer):
    layer.add_device("d2", None)
    assert await layer.hmp("commit d2") == "Device 'd2' has no medium\r\n"
