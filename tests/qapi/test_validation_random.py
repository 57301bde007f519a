"""Valid commands, spoilt at random: refused as QEMU refuses them, and never with another error."""

import copy

import pytest

from blkxact.actions import Transaction
from blkxact.errors import QmpError
from blkxact.qapi.blockdev import BlockdevReopen
from blkxact.qapi.validation import validate

from .oracle import ask_qemu

# QEMU has no node here, so nothing comes of what it accepts.
BITMAP = {"node": "n", "name": "b"}
BACKUP = {"device": "d", "sync": "incremental", "target": "t", "bitmap": "b", "speed": 10}
ACTIONS = [
    {"type": "block-dirty-bitmap-add", "data": {**BITMAP, "granularity": 512}},
    {"type": "block-dirty-bitmap-clear", "data": BITMAP},
    {
        "type": "block-dirty-bitmap-merge",
        "data": {"node": "n", "target": "t", "bitmaps": ["a", BITMAP]},
    },
    {"type": "blockdev-backup", "data": {**BACKUP, "x-perf": {"max-chunk": 0}}},
    {"type": "drive-backup", "data": {**BACKUP, "mode": "existing"}},
    {"type": "blockdev-snapshot", "data": {"node": "n", "overlay": "o"}},
    {"type": "blockdev-snapshot-sync", "data": {"device": "d", "snapshot-file": "f"}},
]
FILE = {"driver": "file", "filename": "f", "locking": "auto"}
OPTIONS = [
    {
        "driver": "qcow2",
        "cache": {"direct": True, "no-flush": False},
        "overlap-check": {"template": "all", "main-header": True},
        "backing": {"driver": "raw", "size": 512, "file": "f"},
        "file": FILE,
    },
    {
        "driver": "blkdebug",
        "align": 512,
        "max-transfer": 512,
        "inject-error": [{"event": "none", "errno": 5, "once": True}],
        "image": FILE,
    },
    {"driver": "null-co", "size": 512, "latency-ns": 1, "read-zeroes": True},
    {
        "driver": "nbd",
        "server": {"type": "inet", "host": "h", "port": "1", "to": 2},
        "reconnect-delay": 1,
    },
]
PROPERTIES = {"completion-mode": "grouped"}
COMMANDS = [
    ("transaction", Transaction, {"actions": [{"type": "abort", "data": {}}, action], **more})
    for action in ACTIONS
    for more in ({}, {"properties": PROPERTIES})
] + [("blockdev-reopen", BlockdevReopen, {"options": [options]}) for options in OPTIONS * 3]
ABOUT_ARGUMENTS = ("Parameter ", "Invalid parameter type for ")
VALUES = [None, True, 0, -1, 2**32, 2**63, 2**64, 1.5, "", "full", "raw", "file", "abort", [], {}]
NAMES = ["driver", "type", "data", "node", "node_name", "node-name", "file", "size", "x"]


def places(value):
    """Yield each container inside ``value`` with each of its keys."""
    if isinstance(value, (dict, list)):
        for key in value if isinstance(value, dict) else range(len(value)):
            yield value, key
            yield from places(value[key])


def spoil(rng, arguments):
    """Return a copy with one to three places removed, replaced or added."""
    arguments = copy.deepcopy(arguments)
    for _ in range(rng.randint(1, 3)):
        found = list(places(arguments))
        container, key = rng.choice(found) if found else (arguments, "x")
        verb = rng.choice(["remove", "replace", "add"])
        if verb == "replace":
            container[key] = copy.deepcopy(rng.choice(VALUES))
        elif verb == "add" and isinstance(container, dict):
            container[rng.choice(NAMES)] = copy.deepcopy(rng.choice(VALUES))
        elif found:
            del container[key]
    return arguments


def spoilt(rng, count):
    """Return ``(name, model, arguments)`` of ``count`` spoilt commands."""
    chosen = (rng.choice(COMMANDS) for _ in range(count))
    commands = [(name, model, spoil(rng, arguments)) for name, model, arguments in chosen]
    # QEMU 7.2 dies of an assertion when there is nothing to reopen.
    return [command for command in commands if command[2] != {"options": []}]


def refusal(model, arguments):
    """Return the text of the error, or ``None``."""
    try:
        validate(model, arguments)
    except QmpError as error:
        return error.desc
    return None


@pytest.mark.parametrize(("name", "model", "arguments"), COMMANDS)
def test_validate_command_not_spoilt_succeeds(name, model, arguments):
    assert refusal(model, arguments) is None


def test_validate_spoilt_command_succeeds_or_raises_qmp_error(seeded):
    refusals = [refusal(model, arguments) for _, model, arguments in spoilt(seeded, 2000)]
    assert any(refusals)
    assert [r for r in refusals if r is not None and not r.startswith(ABOUT_ARGUMENTS)] == []


@pytest.mark.qemu
def test_validate_spoilt_command_is_refused_as_by_qemu(seeded):
    commands = spoilt(seeded, 400)
    replies = ask_qemu([(name, arguments) for name, _, arguments in commands])
    for (_, model, arguments), reply in zip(commands, replies, strict=True):
        ours = refusal(model, arguments)
        theirs = reply.get("error", {}).get("desc")
        if ours is None:
            assert not (theirs or "").startswith(ABOUT_ARGUMENTS), arguments
        elif ours.endswith("unexpected"):
            assert theirs.endswith("unexpected"), arguments  # which of several is as it comes
        else:
            assert ours == theirs, arguments
