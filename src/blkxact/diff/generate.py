"""Random scripts: the same seed gives the same script, as long as the same things happen in it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator

from blkxact.qmp.json_text import encode_text

from . import random_filters, random_jobs, random_machine, random_nodes
from .draw import DEVICES, EMPTY_DRIVE, IMAGES, LIKELY, WELL_KNOWN, Draw
from .script import RESTART, command
from .world import World

SETUP = (
    command("nbd-server-start", addr={"type": "unix", "data": {"path": "nbd"}}),
    command("object-add", qom_type="throttle-group", id="g0"),
)
MALFORMED = (
    "{}",
    "[]",
    "1",
    '"x"',
    "null",
    "{'execute': 'query-name'}",
    '{"execute": 1}',
    '{"execute": "no-such-command"}',
    '{"execute": "query-name", "arguments": []}',
    '{"execute": "query-name", "arguments": {"x": 1}}',
    '{"execute": "query-name", "extra": 1}',
    '{"exec-oob": "query-name"}',
    '{"execute": "blockdev-add", "arguments": {"driver": "no-such-driver"}}',
    '{"execute": "blockdev-add", "arguments": {"driver": "null-co", "size": "x"}}',
    '{"execute": "block-dirty-bitmap-add", "arguments": {"node": "a"}}',
    '{"execute": "qmp_capabilities"}',
    '{"id": [1, {"a": null}], "execute": "query-name"}',
    '{"id": 18446744073709551616, "execute": "query-name"}',
    '{"id": "\\ud83d\\ude00", "execute": "query-name"}',
    '{"id": "\\ud83d", "execute": "query-name"}',
    '{"execute": "query-name", "execute": "query-uuid"}',
    '{"execute": "query-name", "arguments": null}',
    '{"execute": null}',
    '{"execute": "query-name", "exec-oob": "query-name"}',
    '{"execute": "query-name",}',
    '{"execute" "query-name"}',
    "{'execute': 'quer\\u0079-name'}",
    '[{"execute": "query-name"}]',
    "true",
    "nul",
    "-",
    "}",
    "]",
    '{"execute": "query-name"} {"execute": "query-uuid"}',
    '{"execute": "blockdev-add", "arguments": {"driver": "qcow2", "file": {"driver": "file"}}}',
    '{"execute": "blockdev-add", "arguments": {"driver": "qcow2", "file": null}}',
    '{"execute": "transaction", "arguments": {"actions": [{"type": "nope", "data": {}}]}}',
    '{"execute": "transaction", "arguments": {"actions": [{"type": "abort"}]}}',
    '{"execute": "blockdev-reopen", "arguments": {"options": [1]}}',
)


class RandomScript:
    """A script of ``steps`` random lines, and a few that set up what they work on.

    Which lines come is decided as it runs: most name what is there then.
    """

    images = IMAGES
    looks_around = True

    def __init__(self, seed: int, steps: int) -> None:
        self._draw = Draw(seed)
        self._steps = steps
        self._lines: Iterator[str] = self._all_lines()

    def next_line(self, world: World) -> str | None:
        """Return the next line, now that ``world`` is there; None at the end."""
        self._draw.world = world
        return next(self._lines, None)

    def _all_lines(self) -> Iterator[str]:
        yield from _setup(self._draw)
        makers, weights = list(_MAKERS), list(_MAKERS.values())
        for _ in range(self._steps):
            make = self._draw.weighted(makers, weights)
            if self._draw.world.holding and self._draw.chance(LIKELY):
                make = random_jobs.end_of_holding
            line = make(self._draw)
            yield line
            if line == RESTART:
                yield from _setup(self._draw)


def _setup(draw: Draw) -> Iterator[str]:
    yield from SETUP
    for node in draw.sample(WELL_KNOWN, 5):
        yield random_nodes.blockdev_add(draw, node)
    for device in (*DEVICES, EMPTY_DRIVE):
        yield random_nodes.device_add(draw, device)


def _restart(_draw: Draw) -> str:
    return RESTART


def _malformed(draw: Draw) -> str:
    return str(draw.pick(*MALFORMED))


def _wrong_type(draw: Draw) -> str:
    """Return a command with one argument replaced or left out."""
    makers = [maker for maker in _MAKERS if maker not in (_restart, _malformed, _wrong_type)]
    message = json.loads(draw.pick(*makers)(draw))
    arguments = message["arguments"]
    if not arguments:
        return encode_text(message)
    name = draw.pick(*arguments)
    value = draw.pick(None, 1, -1, "nope", [], {}, True, 2**63, 1.5)
    if value is None:
        del arguments[name]
    else:
        arguments[name] = value
    return encode_text(message)


_MAKERS: dict[Callable[[Draw], str], int] = {
    random_nodes.blockdev_add: 10,
    random_nodes.blockdev_del: 4,
    random_nodes.device_add: 3,
    random_nodes.device_del: 2,
    random_nodes.medium: 4,
    random_nodes.io: 20,
    random_nodes.throttle: 2,
    random_nodes.snapshot_node: 3,
    random_nodes.snapshot_sync: 4,
    random_nodes.internal: 2,
    random_nodes.resize: 2,
    random_nodes.reopen: 3,
    random_nodes.backing_file: 1,
    random_nodes.export: 5,
    random_nodes.throttle_group: 2,
    random_filters.filter_add: 5,
    random_filters.filter_insert: 2,
    random_filters.filter_reopen: 2,
    random_filters.change_child: 1,
    random_filters.amend: 1,
    random_filters.create: 2,
    random_filters.write_threshold: 1,
    random_filters.iothread: 2,
    random_machine.run_state: 2,
    random_machine.snapshot: 2,
    random_machine.group_limits: 1,
    random_machine.latency_histogram: 1,
    random_machine.nbd_server: 1,
    random_machine.query: 2,
    random_machine.human: 4,
    random_jobs.bitmap_command: 14,
    random_jobs.backup_command: 10,
    random_jobs.mirror: 8,
    random_jobs.commit: 6,
    random_jobs.stream: 4,
    random_jobs.job_verb: 14,
    random_jobs.transaction: 10,
    _restart: 1,
    _malformed: 2,
    _wrong_type: 4,
}
"""How often each kind of step comes, in relation to the others."""
