"""Every bad input is refused with the very words of the real QEMU."""

import json

import pytest

from blkxact.errors import QmpError
from blkxact.qapi.validation import validate

from .models import MODELS
from .oracle import ask_qemu

pytestmark = pytest.mark.qemu

BITMAP = {"node": "n", "name": "b"}
BACKUP = {"device": "d", "sync": "full", "target": "t"}
FILE = {"driver": "file", "filename": "/nowhere"}


def action(kind, **data):
    return {"type": kind, "data": data}


def actions(*items):
    return {"actions": list(items)}


TABLE = [
    # Scalars
    ("block-dirty-bitmap-clear", {}),
    ("block-dirty-bitmap-clear", {"node": "n"}),
    ("block-dirty-bitmap-clear", {"node": 1, "name": 2}),
    ("block-dirty-bitmap-clear", {"node": None, "name": "b"}),
    ("block-dirty-bitmap-clear", {"node": [], "name": "b"}),
    ("block-dirty-bitmap-clear", {"node": {}, "name": "b"}),
    ("block-dirty-bitmap-clear", {"node": True, "name": "b"}),
    ("block-dirty-bitmap-clear", {"node": 1.5, "name": "b"}),
    ("block-dirty-bitmap-clear", BITMAP | {"x": 1}),
    ("block-dirty-bitmap-clear", {"x": 1}),
    ("block-dirty-bitmap-clear", {"x": 1, "node": 1}),
    ("block-dirty-bitmap-clear", {"x": 1, "node": "n", "name": 1}),
    ("block-dirty-bitmap-add", BITMAP | {"granularity": "65536"}),
    ("block-dirty-bitmap-add", BITMAP | {"granularity": True}),
    ("block-dirty-bitmap-add", BITMAP | {"granularity": None}),
    ("block-dirty-bitmap-add", BITMAP | {"granularity": 1.0}),
    ("block-dirty-bitmap-add", BITMAP | {"granularity": 2**32}),
    ("block-dirty-bitmap-add", BITMAP | {"granularity": -1}),
    ("block-dirty-bitmap-add", BITMAP | {"granularity": -(2**63)}),
    ("block-dirty-bitmap-add", BITMAP | {"granularity": -(2**63) - 1}),
    ("block-dirty-bitmap-add", BITMAP | {"granularity": 2**64 - 1}),
    ("block-dirty-bitmap-add", BITMAP | {"granularity": 2**64}),
    ("block-dirty-bitmap-add", BITMAP | {"granularity": 1e30}),
    ("block-dirty-bitmap-add", BITMAP | {"persistent": "on"}),
    ("block-dirty-bitmap-add", BITMAP | {"persistent": 1}),
    ("block-dirty-bitmap-add", BITMAP | {"persistent": 0, "granularity": "x"}),
    ("block-dirty-bitmap-add", BITMAP | {"disabled": None}),
    ("block-job-set-speed", {"device": "d", "speed": "1"}),
    ("block-job-set-speed", {"device": "d", "speed": 2**63}),
    ("block-job-set-speed", {"device": "d", "speed": 2**64}),
    ("block-job-set-speed", {"device": "d", "speed": -(2**63) - 1}),
    ("block-job-set-speed", {"device": "d", "speed": 1.5}),
    ("block-job-set-speed", {"device": "d", "speed": False}),
    ("block-job-set-speed", {"speed": []}),
    ("block_resize", {"device": "d", "size": "1k"}),
    ("block_resize", {"device": "d"}),
    ("block_resize", {"node_name": "d", "size": 1}),
    ("block-job-cancel", {"device": "d", "force": 1}),
    ("block-job-cancel", {"id": "d"}),
    ("block-job-finalize", {"id": 1}),
    ("block-job-pause", {}),
    ("job-cancel", {}),
    ("job-cancel", {"id": {"a": 1}}),
    ("job-dismiss", {"device": "d"}),
    ("query-named-block-nodes", {"flat": "true"}),
    ("query-blockstats", {"query-nodes": 0}),
    ("human-monitor-command", {}),
    ("human-monitor-command", {"command-line": 1}),
    ("human-monitor-command", {"command-line": "info block", "cpu-index": "0"}),
    ("human-monitor-command", {"command_line": "info block"}),
    ("query-jobs", {"x": 1}),
    ("query-block", {"flat": True}),
    ("qmp_capabilities", {"enable": "oob"}),
    ("qmp_capabilities", {"enable": ["x"]}),
    ("qmp_capabilities", {"enable": ["oob", 1]}),
    # Enums
    ("blockdev-backup", BACKUP | {"sync": "some"}),
    ("blockdev-backup", BACKUP | {"sync": 1}),
    ("blockdev-backup", BACKUP | {"sync": None}),
    ("blockdev-backup", {"device": "d"}),
    ("blockdev-backup", {"device": "d", "sync": "full"}),
    ("blockdev-backup", {"device": "d", "sync": "x", "speed": "x"}),
    ("blockdev-backup", BACKUP | {"bitmap-mode": "conditional"}),
    ("blockdev-backup", BACKUP | {"on-source-error": "panic"}),
    ("blockdev-backup", BACKUP | {"on-target-error": ""}),
    ("blockdev-backup", BACKUP | {"mode": "existing"}),
    ("blockdev-backup", BACKUP | {"auto-finalize": "no"}),
    ("blockdev-backup", BACKUP | {"x-perf": 1}),
    ("blockdev-backup", BACKUP | {"x-perf": {"max-chunk": "1M"}}),
    ("blockdev-backup", BACKUP | {"x-perf": {"x": "1M"}}),
    ("blockdev-backup", BACKUP | {"x-perf": {"x": 1}, "y": 1}),
    ("blockdev-backup", BACKUP | {"job_id": "x"}),
    ("drive-backup", BACKUP | {"mode": "new"}),
    ("drive-backup", BACKUP | {"format": 1}),
    ("drive-backup", {"device": "d", "target": "t"}),
    ("blockdev-snapshot-sync", {}),
    ("blockdev-snapshot-sync", {"device": 1, "snapshot-file": 1}),
    ("blockdev-snapshot-sync", {"snapshot-file": "f", "mode": "x"}),
    ("blockdev-snapshot", {"node": "n"}),
    ("blockdev-snapshot-internal-sync", {"device": "d"}),
    ("blockdev-snapshot-delete-internal-sync", {"name": "d"}),
    ("block-commit", {"device": "d", "on-error": "x"}),
    ("block-stream", {"device": "d", "on-error": 1}),
    ("drive-mirror", {"device": "d", "target": "t", "sync": "full", "copy-mode": "x"}),
    ("blockdev-mirror", {"device": "d", "target": "t", "sync": "full", "granularity": -1}),
    ("change-backing-file", {"device": "d"}),
    ("block_set_io_throttle", {"bps": 0}),
    ("block_set_io_throttle", {"bps": 0, "bps-rd": 0}),
    # Lists and alternates
    ("block-dirty-bitmap-merge", {"node": "n", "target": "t"}),
    ("block-dirty-bitmap-merge", {"node": "n", "target": "t", "bitmaps": "b"}),
    ("block-dirty-bitmap-merge", {"node": "n", "target": "t", "bitmaps": {}}),
    ("block-dirty-bitmap-merge", {"node": "n", "target": "t", "bitmaps": [1]}),
    ("block-dirty-bitmap-merge", {"node": "n", "target": "t", "bitmaps": ["a", None]}),
    ("block-dirty-bitmap-merge", {"node": "n", "target": "t", "bitmaps": ["a", ["b"]]}),
    ("block-dirty-bitmap-merge", {"node": "n", "target": "t", "bitmaps": ["a", {}]}),
    ("block-dirty-bitmap-merge", {"node": "n", "target": "t", "bitmaps": [{"node": 1}]}),
    ("block-dirty-bitmap-merge", {"node": "n", "target": "t", "bitmaps": [BITMAP | {"x": 1}]}),
    # Transactions
    ("transaction", {}),
    ("transaction", {"actions": {}}),
    ("transaction", {"actions": None}),
    ("transaction", {"actions": [], "x": 1}),
    ("transaction", {"actions": [], "properties": []}),
    ("transaction", {"actions": [], "properties": {"completion-mode": "x"}}),
    ("transaction", {"actions": [], "properties": {"completion-mode": 1}}),
    ("transaction", {"actions": [], "properties": {"x": 1}}),
    ("transaction", {"actions": [1], "properties": 1}),
    ("transaction", actions("abort")),
    ("transaction", actions({})),
    ("transaction", actions({"data": {}})),
    ("transaction", actions({"type": "abort"})),
    ("transaction", actions({"type": "nothing", "data": {}})),
    ("transaction", actions({"type": 1, "data": {}})),
    ("transaction", actions({"type": None})),
    ("transaction", actions({"type": {}, "data": {}})),
    ("transaction", actions({"type": "abort", "data": 1})),
    ("transaction", actions({"type": "abort", "data": {"x": 1}})),
    ("transaction", actions({"type": "abort", "data": {}, "x": 1})),
    ("transaction", actions(action("abort"), action("block-dirty-bitmap-clear", node="n"))),
    ("transaction", actions(action("abort"), action("block-dirty-bitmap-clear", node=1))),
    ("transaction", actions(action("block-dirty-bitmap-add", **BITMAP, granularity=-1))),
    ("transaction", actions(action("block-dirty-bitmap-add", **BITMAP, granularity="x"))),
    ("transaction", actions(action("blockdev-backup", device="d", sync="x"))),
    ("transaction", actions(action("drive-backup", **BACKUP, x=1))),
    ("transaction", actions(action("blockdev-snapshot-sync", device="d"))),
    (
        "transaction",
        actions(action("block-dirty-bitmap-merge", node="n", target="t", bitmaps=[{"node": 1}])),
    ),
    (
        "transaction",
        actions(action("block-dirty-bitmap-merge", node="n", target="t", bitmaps=[1])),
    ),
    # Nodes
    ("blockdev-add", {}),
    ("blockdev-add", {"driver": 1}),
    ("blockdev-add", {"driver": "nope"}),
    ("blockdev-add", {"driver": "nope", "node-name": 1}),
    ("blockdev-add", {"driver": "file"}),
    ("blockdev-add", {"driver": "file", "node-name": 1}),
    ("blockdev-add", FILE | {"locking": "yes"}),
    ("blockdev-add", FILE | {"aio": "magic"}),
    ("blockdev-add", FILE | {"read-only": "on"}),
    ("blockdev-add", FILE | {"discard": True}),
    ("blockdev-add", FILE | {"discard": "on"}),
    ("blockdev-add", FILE | {"detect-zeroes": "yes"}),
    ("blockdev-add", FILE | {"cache": "none"}),
    ("blockdev-add", FILE | {"cache": {"direct": 1}}),
    ("blockdev-add", FILE | {"cache": {"writeback": True}}),
    ("blockdev-add", FILE | {"file": "x"}),
    ("blockdev-add", {"driver": "raw"}),
    ("blockdev-add", {"driver": "raw", "file": 1}),
    ("blockdev-add", {"driver": "raw", "file": None}),
    ("blockdev-add", {"driver": "raw", "file": []}),
    ("blockdev-add", {"driver": "raw", "file": {}}),
    ("blockdev-add", {"driver": "raw", "file": {"driver": "nope"}}),
    ("blockdev-add", {"driver": "raw", "file": {"driver": "file"}}),
    ("blockdev-add", {"driver": "raw", "file": FILE | {"x": 1}}),
    ("blockdev-add", {"driver": "raw", "file": {"driver": "raw", "file": FILE | {"aio": 1}}}),
    ("blockdev-add", {"driver": "raw", "file": {"driver": "raw", "file": FILE | {"aio": "x"}}}),
    ("blockdev-add", {"driver": "raw", "file": "f", "offset": "1"}),
    ("blockdev-add", {"driver": "raw", "file": "f", "backing": None}),
    ("blockdev-add", {"driver": "qcow2", "file": "f", "backing": 1}),
    ("blockdev-add", {"driver": "qcow2", "file": "f", "overlap-check": 1}),
    ("blockdev-add", {"driver": "qcow2", "file": "f", "overlap-check": "x"}),
    ("blockdev-add", {"driver": "qcow2", "file": "f", "overlap-check": {"template": "x"}}),
    ("blockdev-add", {"driver": "qcow2", "file": "f", "lazy-refcounts": "on"}),
    ("blockdev-add", {"driver": "null-co", "size": "1G"}),
    ("blockdev-add", {"driver": "null-co", "latency-ns": "1"}),
    ("blockdev-add", {"driver": "blkdebug"}),
    ("blockdev-add", {"driver": "blkdebug", "image": "i", "inject-error": {}}),
    ("blockdev-add", {"driver": "blkdebug", "image": "i", "inject-error": [{}]}),
    ("blockdev-add", {"driver": "blkdebug", "image": "i", "inject-error": [{"event": "x"}]}),
    (
        "blockdev-add",
        {"driver": "blkdebug", "image": "i", "inject-error": [{"event": "none", "errno": "EIO"}]},
    ),
    ("blockdev-add", {"driver": "blkdebug", "image": "i", "set-state": [{"event": "none"}]}),
    (
        "blockdev-add",
        {"driver": "blkdebug", "image": "i", "set-state": [{"event": "none", "new-state": 1}]},
    ),
    ("blockdev-add", {"driver": "blkdebug", "image": "i", "max-transfer": 2**31}),
    ("blockdev-add", {"driver": "blkdebug", "image": "i", "max-transfer": "1"}),
    ("blockdev-add", {"driver": "blkdebug", "image": "i", "take-child-perms": ["x"]}),
    ("blockdev-add", {"driver": "blkdebug", "image": "i", "take-child-perms": [1]}),
    ("blockdev-add", {"driver": "copy-before-write", "file": "f"}),
    ("blockdev-add", {"driver": "copy-before-write", "file": "f", "target": "t", "bitmap": "b"}),
    ("blockdev-add", {"driver": "throttle", "file": "f"}),
    ("blockdev-add", {"driver": "nbd"}),
    ("blockdev-add", {"driver": "nbd", "server": {}}),
    ("blockdev-add", {"driver": "nbd", "server": {"type": "x"}}),
    ("blockdev-add", {"driver": "nbd", "server": {"type": "unix"}}),
    ("blockdev-add", {"driver": "nbd", "server": {"type": "inet", "host": "h", "port": 1}}),
    (
        "blockdev-add",
        {"driver": "nbd", "server": {"type": "inet", "host": "h", "port": "1", "to": 65536}},
    ),
    ("blockdev-reopen", {}),
    ("blockdev-reopen", {"options": {}}),
    ("blockdev-reopen", {"options": [{"driver": "raw", "file": {"driver": "file"}}]}),
    ("blockdev-del", {}),
    ("blockdev-del", {"id": "x"}),
    ("blockdev-create", {}),
    ("blockdev-create", {"job-id": "j"}),
    ("blockdev-create", {"job-id": "j", "options": {}}),
    ("blockdev-create", {"job-id": "j", "options": {"driver": "file", "filename": "f"}}),
    (
        "blockdev-create",
        {"job-id": "j", "options": {"driver": "file", "filename": "f", "size": "1M"}},
    ),
    (
        "blockdev-create",
        {"job-id": "j", "options": {"driver": "qcow2", "file": "f", "size": 1, "version": "3"}},
    ),
    (
        "blockdev-create",
        {"job-id": "j", "options": {"driver": "qcow2", "file": {"driver": "file"}, "size": 1}},
    ),
    ("blockdev-create", {"job-id": "j", "options": {"driver": "raw", "size": 1}}),
    # Exports, devices, objects
    ("nbd-server-start", {}),
    ("nbd-server-start", {"addr": {"type": "unix"}}),
    ("nbd-server-start", {"addr": {"type": "unix", "path": "p"}}),
    ("nbd-server-start", {"addr": {"type": "unix", "data": {}}}),
    ("nbd-server-start", {"addr": {"type": "unix", "data": {"path": "p"}, "path": "p"}}),
    ("nbd-server-start", {"addr": {"type": "inet", "data": {"host": "h"}}}),
    ("nbd-server-add", {"device": "d", "writable": 1}),
    ("nbd-server-remove", {"name": "d", "mode": "soft"}),
    ("block-export-add", {}),
    ("block-export-add", {"type": "nope", "id": 1}),
    ("block-export-add", {"type": "nbd"}),
    ("block-export-add", {"type": "nbd", "id": "e"}),
    ("block-export-add", {"type": 1, "id": "e"}),
    ("block-export-add", {"type": "nbd", "id": "e", "node-name": "n", "bitmaps": [1]}),
    ("block-export-add", {"type": "nbd", "id": "e", "node-name": "n", "device": "d"}),
    ("block-export-del", {"id": "e", "mode": 1}),
    ("device_del", {}),
    ("device_del", {"id": 1}),
    ("object-add", {}),
    ("object-add", {"qom-type": "nope", "id": "o"}),
    ("object-add", {"qom-type": "iothread"}),
    ("object-add", {"qom_type": "iothread", "id": "o"}),
    ("object-add", {"qom-type": "iothread", "id": "o", "poll-max-ns": "1"}),
    ("object-add", {"qom-type": "iothread", "id": "o", "props": {}}),
    ("object-add", {"qom-type": "throttle-group", "id": "o", "limits": 1}),
    ("object-add", {"qom-type": "throttle-group", "id": "o", "limits": {"iops-total": "1"}}),
    ("object-del", {"qom-path": "x"}),
]


@pytest.fixture(scope="module")
def replies():
    return ask_qemu(TABLE)


@pytest.mark.parametrize(
    "index", range(len(TABLE)), ids=[f"{name}-{json.dumps(a)}"[:90] for name, a in TABLE]
)
def test_validate_bad_input_gives_qemus_error(replies, index):
    name, arguments = TABLE[index]
    with pytest.raises(QmpError) as caught:
        validate(MODELS[name], arguments)
    assert caught.value.as_reply() == replies[index]["error"]
