"""What is restored is compared with what the disks held at each instant."""

from __future__ import annotations

import random
from pathlib import Path

from blkxact.prove.history import GARBAGE, PAGE, History, Write, number_in, page_of, random_writes
from blkxact.prove.judgement import judge, read_restored


def written(*writes: tuple[int, str, int, float, float | None]) -> History:
    """Return a history of writes of one page: number, disk, page, begin, end."""
    history = History()
    for number, disk, page, begin, end in writes:
        history.begin(Write(number, disk, page, 1), begin)
        if end is not None:
            history.end(number, end)
    return history


def test_page_says_which_write_it_is_from():
    assert number_in(page_of(7, 3), 3) == 7
    assert number_in(page_of(7, 3), 4) == GARBAGE, "it is at another place"
    assert number_in(page_of(7, 3)[:-1] + b"x", 3) == GARBAGE
    assert page_of(0, 3) == bytes(PAGE)


def test_restored_disk_of_any_instant_of_the_call_is_right():
    history = written((1, "a", 0, 1.0, 1.1), (2, "a", 0, 5.0, 5.1))
    assert judge(history, {"a": {0: 1}}, (2.0, 9.0), consistent=True) == []
    assert judge(history, {"a": {0: 2}}, (2.0, 9.0), consistent=True) == []


def test_restored_disk_of_before_the_call_is_wrong():
    history = written((1, "a", 0, 1.0, 1.1), (2, "a", 7, 1.2, 1.3))
    [difference] = judge(history, {"a": {7: 2}}, (2.0, 9.0), consistent=True)
    assert (difference.disk, difference.wrong_bytes, difference.first_byte) == ("a", PAGE, 0)
    assert "is what it held before any write (zeroes) instead of what the guest wrote" in str(
        difference
    )


def test_difference_says_when_the_guest_wrote_what_is_missing():
    history = History(period="before call 2")
    history.begin(Write(1, "a", 0, 1), 1.0)
    history.end(1, 1.1)
    history.period = "during call 2"
    [difference] = judge(history, {"a": {}}, (2.0, 9.0), consistent=True)
    assert difference.expected == "what the guest wrote before call 2"


def test_first_wrong_byte_is_the_first_that_differs():
    history = written((1, "a", 5, 1.0, 1.1))
    [difference] = judge(history, {"a": {}}, (2.0, 9.0), consistent=True)
    assert difference.first_byte == 5 * PAGE
    history = written((256, "a", 0, 1.0, 1.1))
    [difference] = judge(history, {"a": {}}, (2.0, 9.0), consistent=True)
    assert difference.first_byte == 1, "256 begins with a zero byte"


def test_bytes_that_no_write_put_there_are_wrong():
    [difference] = judge(History(), {"a": {3: GARBAGE}}, (2.0, 9.0), consistent=True)
    assert difference.held == "what the guest never wrote there"


def test_write_under_way_may_be_there_or_not():
    history = written((1, "a", 0, 1.0, 3.0))
    for held in ({}, {0: 1}):
        assert judge(history, {"a": held}, (2.0, 2.5), consistent=True) == []
    assert judge(history, {"a": {}}, (3.5, 4.0), consistent=True) != []


def test_disks_of_two_instants_are_wrong_only_if_they_must_be_of_one():
    history = written((1, "a", 0, 1.0, 1.1), (2, "b", 0, 2.0, 2.1))
    restored = {"a": {}, "b": {0: 2}}
    assert judge(history, restored, (0.5, 3.0), consistent=False) == []
    assert len(judge(history, restored, (0.5, 3.0), consistent=True)) == 1


def test_after_a_restart_the_disk_holds_what_is_found():
    history = written((1, "a", 0, 1.0, 1.1), (2, "a", 0, 2.0, None))
    history.forget_open()
    assert history.settle("a", {0: 1}, 3.0) == [], "the write under way was lost"
    assert judge(history, {"a": {0: 1}}, (4.0, 5.0), consistent=True) == []
    assert judge(history, {"a": {0: 2}}, (4.0, 5.0), consistent=True) != []


def test_after_a_restart_a_flushed_write_must_be_there():
    history = written((1, "a", 0, 1.0, 1.1))
    assert history.settle("a", {0: 0}, 3.0) == [0]


def test_random_writes_are_inside_of_the_disk_and_numbered(seeded: random.Random):
    writes = list(random_writes(seeded, 5, {"a": 1 << 20, "b": 8 << 20}, 50))
    assert [write.number for write in writes] == list(range(5, 105))
    sizes = {"a": (1 << 20) // PAGE, "b": (8 << 20) // PAGE}
    assert all(write.pages.stop <= sizes[write.disk] for write in writes)


def test_restored_file_is_read_with_its_holes(tmp_path: Path):
    path = tmp_path / "restored"
    with path.open("wb") as file:
        file.truncate(1 << 20)
        file.seek(PAGE)
        file.write(page_of(3, 1))
    assert read_restored(path, 1 << 20) == {1: 3}
    assert read_restored(path, 2 << 20) == "has 1048576 bytes instead of 2097152"
    assert read_restored(tmp_path / "other", 1 << 20) == "was not written"
