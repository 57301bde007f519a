"""Which differences from QEMU the notes in docs/differences-from-qemu.md explain, and which not."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple

import pytest

from blkxact.diff.known import Difference, Known, known_differences, parse_known


def test_known_difference_is_explained_by_where_and_both_values() -> None:
    [known] = parse_known("text <!-- diff: query-* */size | 1 | 2 --> text")
    assert known == Known("query-* */size", "1", "2")
    assert known.explains(Difference(0, "query-block /0/size", 1, 2))
    assert not known.explains(Difference(0, "query-block /0/size", 2, 1))
    assert not known.explains(Difference(0, "query-block /0/sizes", 1, 2))


def test_known_difference_may_be_bound_to_a_line_and_end_the_run() -> None:
    [known] = parse_known('<!-- diff-end: query-block * | * | * | *"eject"* -->')
    assert known.ends
    assert known.explains(Difference(0, "query-block /0", 1, 2, '{"execute": "eject"}'))
    assert not known.explains(Difference(0, "query-block /0", 1, 2, '{"execute": "stop"}'))


@pytest.mark.parametrize(
    ("ours", "theirs", "relations"),
    [
        (5, 8, {"at most 3 more", "more"}),
        (5, 9, {"more"}),
        (5, 4, {"less"}),
        (0, -1, {"less"}),
        ("5", 6, set()),
        (5, "(nothing)", set()),
    ],
)
def test_known_difference_may_say_which_number_is_larger(
    ours: object, theirs: object, relations: set[str]
) -> None:
    difference = Difference(0, "query-block /size", ours, theirs)
    for relation in ("at most 3 more", "more", "less"):
        [known] = parse_known(f"<!-- diff: query-block /size | * | {relation} -->")
        assert known.explains(difference) is (relation in relations)


def test_known_difference_may_be_one_from_a_release() -> None:
    [known, ending] = parse_known("<!-- diff 10.0: x /y --> <!-- diff-end 7.2: x /y -->")
    for release, expected in (("10.0", [True, False]), ("7.2", [False, True])):
        difference = Difference(0, "x /y", 1, 2, release=release)
        assert [known.explains(difference), ending.explains(difference)] == expected
    assert ending.ends


def test_every_note_of_the_page_names_a_place() -> None:
    notes = known_differences()
    assert notes
    assert all(len(note.where.split()) > 1 for note in notes)


class Pair(NamedTuple):
    """A difference that a note explains, and one beside it that none does."""

    where: str
    ours: object
    theirs: object
    line: str
    other: dict[str, Any]
    """The members of the second that are not those of the first."""
    release: str = "7.2"


ANSWERS, HANGS = "answers", "no answer within 30 s"
RESTLESS = "no rest of all jobs within 30 s"
HIGHEST = "stats/wr_highest_offset"
SIZE = "image/virtual-size"
COUNT = "query-named-block-nodes /base(qcow2)/dirty-bitmaps/0/count"
FLAGS = "query-block /0/inserted/image/format-specific/data/bitmaps/0/flags/1"
CONFLICT = "Permission conflict on node 'a'"
SLOW_BACKUP = '"type": "blockdev-backup", "data": {"job-id": "slow0", "speed": 1}'
WRITE = 'human-monitor-command qemu-io d "write 0 4k"'
MIRRORED = '"blockdev-mirror" "qom-set" "drive" qemu-io d "write 0 4k"'

PAIRS = {
    "bitmap of two backups": Pair(
        "transaction /0/error/desc",
        "Source and target cannot be the same",
        "Bitmap 'b' is currently in use by another operation and cannot be used",
        '"blockdev-backup" "bitmap": "b" "blockdev-backup" "bitmap": "b"',
        {"line": '"blockdev-backup" "bitmap": "b" "block-dirty-bitmap-clear" "name": "b"'},
    ),
    "crash": Pair(
        "transaction silence", ANSWERS, "ended with status -6: Assertion failed", "",
        {"theirs": "ended with status -15: terminated"},
    ),
    "segmentation fault": Pair(
        "transaction silence", ANSWERS, "ended with status -11: ", "",
        {"theirs": "ended with status -1: "},
    ),
    "zeroes that are not written": Pair(
        f"query-blockstats /n(null-co)/{HIGHEST}", 0, 65536, "", {"ours": 65536, "theirs": 0}
    ),
    "zeroes that are not written to a backing file": Pair(
        f"query-blockstats /t(qcow2)/backing/{HIGHEST}", 0, 65536, "", {"ours": 65536, "theirs": 0}
    ),
    "zeroes that are not written to a target": Pair(
        f"query-blockstats /0/return/t(qcow2)/{HIGHEST}", 0, 65536, "",
        {"where": f"query-blockstats /t(qcow2)/{HIGHEST}"},
    ),
    "zeroes that are not written to a raw target": Pair(
        f"query-blockstats /0/return/t(raw)/parent/{HIGHEST}", 0, 65536, "",
        {"ours": 65536, "theirs": 0},
    ),
    "pieces in flight when a backup fails": Pair(
        "blockdev-backup events /j1/3/data/offset", 0, 65536, "",
        {"where": "blockdev-mirror events /j1/3/data/offset"},
    ),
    "cancelled at the end before it has begun": Pair(
        "quit events /j1/1/data/len", 0, 65536, "", {"ours": 4096}
    ),
    "offset when it is cancelled at the end": Pair(
        "quit events /j1/1/data/offset", 0, 65536, "", {"where": "stop events /j1/1/data/offset"}
    ),
    "target that refuses every write": Pair(
        "blockdev-backup silence", RESTLESS, HANGS, '"on-target-error": "ignore"',
        {"line": '"on-target-error": "stop"'},
    ),
    "threshold passed by a commit": Pair(
        "block-commit events /a/0/data/amount-exceeded", 1, 2, "",
        {"where": "block-commit events /a/0/data/len"},
    ),
    "zeroes of a stream": Pair(
        "query-named-block-nodes /f(file:c.raw)/image/virtual-size", 2, 1, '"block-stream"',
        {"ours": 1, "theirs": 2},
    ),
    "granules of a commit": Pair(COUNT, 1, 2, '"block-commit"', {"ours": 2, "theirs": 1}),
    "slow backup that fails": Pair(
        "blockdev-backup silence", ANSWERS, RESTLESS, '"job-id": "slow0", "speed": 1',
        {"line": '"job-id": "j1", "speed": 1'},
    ),
    "slow backup of a transaction that fails": Pair(
        "transaction silence", ANSWERS, RESTLESS, SLOW_BACKUP,
        {"line": SLOW_BACKUP.replace("slow0", "j1")},
    ),
    "slow backup of which a guest has caused the rest": Pair(
        "human-monitor-command silence", ANSWERS, RESTLESS,
        f"{WRITE} beside slow0(backup, running)",
        {"line": WRITE},
    ),
    "bitmap in use that is enabled": Pair(
        "query-named-block-nodes /a(qcow2)/dirty-bitmaps/0/recording", True, False,
        '"transaction" "block-dirty-bitmap-enable"', {"line": '"block-dirty-bitmap-enable"'},
    ),
    "drained section of a failed transaction": Pair(
        "transaction silence", ANSWERS, HANGS, '"type": "blockdev-snapshot-sync"',
        {"release": "10.0"},
    ),
    "bitmap stored while a backup has it": Pair(
        FLAGS, "auto", "(nothing)", '"blockdev-snapshot" beside j(backup, running)',
        {"line": '"blockdev-snapshot"'},
    ),
    "bitmap stored in the transaction of its backup": Pair(
        FLAGS, "auto", "(nothing)", '"blockdev-backup" "blockdev-snapshot-sync"',
        {"line": '"blockdev-snapshot-sync" "blockdev-backup"'},
    ),
    "stream beside a slow job": Pair(
        "block-stream silence", ANSWERS, HANGS, '"block-stream" beside slow0(backup, running)',
        {"line": '"block-stream" beside j1(backup, pending)'}, "10.0",
    ),
    "bitmap-mode always": Pair(
        COUNT, 1, 2, '"transaction" "blockdev-backup" "bitmap-mode": "always"',
        {"ours": 2, "theirs": 1},
    ),
    "compress filter": Pair(
        "blockdev-mirror silence", ANSWERS, HANGS, '"device": "f(compress)"',
        {"release": "7.2"}, "10.0",
    ),
    "grouped transaction": Pair(
        "transaction silence", ANSWERS, HANGS,
        '"blockdev-backup" "blockdev-backup" "completion-mode": "grouped"',
        {"release": "7.2"}, "10.0",
    ),
    "mirror below its filter": Pair(
        "image a.qcow2 /sha256", "a", "b", MIRRORED, {"release": "7.2"}, "10.0"
    ),
    "commit below its filter": Pair(
        "image a.qcow2 /sha256", "a", "b", MIRRORED.replace("blockdev-mirror", "block-commit"),
        {"release": "7.2"}, "10.0",
    ),
    "mirror that is ready": Pair(
        f"query-blockstats /t(qcow2)/backing/{HIGHEST}", 2, 1, f"{WRITE} beside j(mirror, ready)",
        {"line": WRITE},
    ),
    "bottom of copy-on-read": Pair(
        "blockdev-add silence", ANSWERS, HANGS, '"copy-on-read" "bottom"', {"release": "10.0"}
    ),
    "length of a blkdebug node above a new overlay": Pair(
        f"query-named-block-nodes /f(blkdebug)/{SIZE}", 0, 1, '"blockdev-snapshot-sync"',
        {"line": '"blockdev-add"'},
    ),
    "length of a compress filter": Pair(
        f"query-named-block-nodes /f(compress)/{SIZE}", 1, 2, '"block_resize"',
        {"where": f"query-named-block-nodes /f(commit_top)/{SIZE}"},
    ),
    "length of a copy-on-read filter": Pair(
        f"query-named-block-nodes /f(copy-on-read)/{SIZE}", 1, 2, '"block_resize"',
        {"line": '"block-stream"'},
    ),
    "length of a copy-before-write filter": Pair(
        f"query-named-block-nodes /f(copy-before-write)/{SIZE}", 1, 2, '"block_resize"',
        {"line": '"blockdev-backup"'},
    ),
    "users that disagree with a device": Pair(
        "device_add /0/error/desc", f"{CONFLICT}: by an unnamed block device", CONFLICT, "",
        {"ours": "Failed to open an unnamed block device"},
    ),
    "disk of a pending mirror": Pair(
        "device_add silence", ANSWERS, HANGS, '"device_add" beside j(mirror, pending)',
        {"line": '"device_add" beside j(mirror, ready)'},
    ),
    "permissions of several nodes": Pair(
        "blockdev-reopen /0/error/desc", f"{CONFLICT}: one", f"{CONFLICT}: two",
        '"options": [{"driver": "raw"}, {"driver": "raw"}]', {"release": "7.2"}, "10.0",
    ),
    "removal that is aborted": Pair(
        "query-block /0/inserted/image/format-specific/data/bitmaps/0", {"name": "b"}, "(nothing)",
        '"transaction" "block-dirty-bitmap-remove"', {"ours": "(nothing)", "theirs": {"name": "b"}},
    ),
    "bitmaps stored by a reopen that fails": Pair(
        FLAGS, "in-use", "auto", '"blockdev-reopen"',
        {"where": "query-block /0/inserted/data/bitmaps/0/flags/0"},
    ),
    "end of the file of an image": Pair(
        f"query-blockstats /a(qcow2)/parent/{HIGHEST}", 1, 2, "",
        {"where": f"query-blockstats /c(raw)/parent/{HIGHEST}"},
    ),
    "end of the file of an image below a filter": Pair(
        f"query-blockstats /f(throttle)/parent/parent/{HIGHEST}", 1, 2, "",
        {"where": f"query-blockstats /f(throttle)/parent/{HIGHEST}"},
    ),
    "end of the file of a backing file": Pair(
        f"query-blockstats /0/return/f(throttle)/backing/parent/{HIGHEST}", 2, 1, "",
        {"where": f"query-blockstats /0/return/f(throttle)/{HIGHEST}"},
    ),
    "end of a file": Pair(
        f"query-blockstats /0/return/f(file:a.qcow2)/{HIGHEST}", 2, 1, "",
        {"where": f"query-blockstats /0/return/f(file:c.raw)/{HIGHEST}"},
    ),
    "length of a file": Pair(
        f"query-named-block-nodes /0/return/f(file:a.qcow2)/{SIZE}", 1, 2, "",
        {"where": f"query-named-block-nodes /0/return/f(file:c.raw)/{SIZE}"},
    ),
    "image above itself": Pair(
        "blockdev-add silence", ANSWERS, HANGS, '"driver": "qcow2" "read-only": true',
        {"line": '"driver": "raw" "file": "qcow2" "read-only": true'},
    ),
    "bitmaps that cannot be stored": Pair(
        "quit silence", "ended with status 1: closing node 'a': Bitmap 'b' already exists",
        ANSWERS, "", {"ours": "ended with status 1: closing node 'a': Input/output error"},
    ),
    "bitmaps that cannot be stored where QEMU crashes": Pair(
        "quit silence", "ended with status 1: closing node 'a': Lost persistent bitmaps: no room",
        "ended with status -6: Assertion failed", "", {"ours": "ended with status 1: "},
    ),
    "image that cannot be made": Pair(
        "image c.raw /sha256", "a", "b",
        '"blockdev-create" "driver": "qcow2", "file": "c-file(file)"',
        {"line": '"blockdev-create" "driver": "file", "filename": "c.raw"'},
    ),
    "state of the machine": Pair(
        "query-block /0/inserted/image/snapshots/0/vm-state-size", 0, 655449, "", {"ours": 1},
    ),
}  # fmt: skip


@pytest.mark.parametrize("pair", PAIRS.values(), ids=PAIRS)
def test_note_explains_what_it_describes_and_not_what_is_beside_it(pair: Pair) -> None:
    difference = Difference(0, *pair[:4], pair.release)
    notes = known_differences()
    assert any(note.explains(difference) for note in notes)
    assert not any(note.explains(replace(difference, **pair.other)) for note in notes)
