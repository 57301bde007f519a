"""What DirtyBitmap refuses, and what the model test does not reach."""

import asyncio
import hashlib
import itertools

import pytest
from pyroaring import BitMap

from blkxact.bitmap import BitmapCheck, DirtyBitmap
from blkxact.dirty import data as bitmap_data
from blkxact.dirty import roaring
from blkxact.dirty.order import latest_first
from blkxact.enums import BitmapOutcome
from blkxact.errors import QmpError
from blkxact.runtime.steps import at_once, in_turns

MIB = 1 << 20


def dirty(*runs, size=MIB, granularity=65536, name="b"):
    bitmap = DirtyBitmap(size, granularity, name)
    for offset, length in runs:
        bitmap.mark(offset, length)
    return bitmap


@pytest.mark.parametrize(
    ("state", "flag", "text"),
    [
        (
            "busy",
            BitmapCheck.BUSY,
            "Bitmap 'b' is currently in use by another operation and cannot be used",
        ),
        ("read_only", BitmapCheck.READ_ONLY, "Bitmap 'b' is readonly and cannot be modified"),
        ("inconsistent", BitmapCheck.INCONSISTENT, "Bitmap 'b' is inconsistent and cannot be used"),
    ],
)
def test_check_of_each_state_is_refused_only_if_asked_for(state, flag, text):
    bitmap = dirty()
    bitmap.check()
    setattr(bitmap, state, True)
    with pytest.raises(QmpError) as caught:
        bitmap.check()
    assert caught.value.desc == text
    bitmap.check(BitmapCheck.DEFAULT & ~flag)


@pytest.mark.parametrize("state", ["busy", "read_only", "inconsistent"])
def test_merge_into_unusable_bitmap_changes_nothing(state):
    target = dirty((0, 1))
    setattr(target, state, True)
    with pytest.raises(QmpError):
        target.merge(dirty((65536, 1)))
    assert list(target.runs()) == [(0, 65536)]


def test_merge_from_read_only_bitmap_succeeds():
    source = dirty((65536, 1))
    source.read_only = True
    target = dirty()
    target.merge(source)
    assert list(target.runs()) == [(65536, 65536)]


def test_merge_with_itself_keeps_the_bits():
    bitmap = dirty((65536, 1))
    bitmap.merge(bitmap)
    assert list(bitmap.runs()) == [(65536, 65536)]


def test_absorb_leaves_the_source_alone():
    source, target = dirty((65536, 1)), dirty((0, 1))
    target.absorb(source)
    target.mark(131072, 1)
    assert list(source.runs()) == [(65536, 65536)]


def test_mark_beyond_the_end_is_a_bug():
    with pytest.raises(AssertionError):
        dirty().mark(MIB - 1, 2)
    with pytest.raises(AssertionError):
        dirty((MIB - 1, 2))


def test_unmark_of_half_a_granule_is_a_bug():
    bitmap = dirty((0, MIB))
    with pytest.raises(AssertionError):
        bitmap.unmark(0, 100)
    with pytest.raises(AssertionError):
        bitmap.unmark(512, 65536 - 512)


def test_unmark_up_to_an_unaligned_end_resets_the_last_granule():
    bitmap = dirty((0, 100_000), size=100_000)
    bitmap.unmark(65536, 100_000 - 65536)
    assert list(bitmap.runs()) == [(0, 65536)]


def test_count_of_a_cut_last_granule_is_whole():
    assert dirty((0, 100_000), size=100_000).count() == 131072


def test_write_to_disabled_bitmap_is_not_recorded():
    bitmap = dirty()
    bitmap.enabled = False
    bitmap.record_write(0, 1)
    assert bitmap.count() == 0
    assert not bitmap.recording


def test_frozen_disabled_bitmap_stays_disabled():
    bitmap = dirty((0, 1))
    bitmap.enabled = False
    bitmap.freeze("job")
    bitmap.record_write(65536, 1)
    assert bitmap.settle("job", success=False) is BitmapOutcome.RECLAIMED
    assert not bitmap.enabled
    assert list(bitmap.runs()) == [(0, 65536)]


def test_freeze_by_another_group_is_refused():
    bitmap = dirty()
    bitmap.freeze("job", group="one")
    for group in ("two", None):
        with pytest.raises(QmpError, match="in use by another operation"):
            bitmap.freeze("other", group=group)
    assert bitmap.settle("job", success=True) is BitmapOutcome.ABDICATED


def test_freeze_without_group_is_not_shared():
    bitmap = dirty()
    bitmap.freeze("job")
    with pytest.raises(QmpError):
        bitmap.freeze("other")


def test_freeze_of_busy_bitmap_is_refused():
    bitmap = dirty()
    bitmap.busy = True
    with pytest.raises(QmpError):
        bitmap.freeze("job")
    assert not bitmap.frozen


def test_settle_twice_is_a_bug():
    bitmap = dirty()
    bitmap.freeze("a", group=1)
    bitmap.freeze("b", group=1)
    assert bitmap.settle("a", success=True) is None
    with pytest.raises(AssertionError):
        bitmap.settle("a", success=True)
    with pytest.raises(AssertionError):
        bitmap.freeze("a", group=1)
    assert bitmap.busy


@pytest.mark.parametrize("results", [(False, True), (True, False)])
def test_settle_with_one_failure_reclaims_in_either_order(results):
    bitmap = dirty((0, 1))
    for user in range(2):
        bitmap.freeze(user, group="txn")
    bitmap.record_write(65536, 1)
    assert bitmap.settle(0, success=results[0]) is None
    bitmap.record_write(131072, 1)
    assert bitmap.settle(1, success=results[1]) is BitmapOutcome.RECLAIMED
    assert list(bitmap.runs()) == [(0, 3 * 65536)]
    assert not bitmap.busy
    bitmap.check()


def test_settle_with_uncopied_bits_keeps_just_those():
    bitmap = dirty((0, 65536 * 4))
    bitmap.freeze("job")
    bitmap.record_write(65536 * 8, 1)
    uncopied = dirty((65536 * 2, 1))
    assert bitmap.settle("job", success=True, uncopied=uncopied) is BitmapOutcome.ABDICATED
    assert list(bitmap.runs()) == [(65536 * 2, 65536), (65536 * 8, 65536)]


def test_settle_with_uncopied_bits_keeps_them_until_the_last_user():
    bitmap = dirty((0, 65536 * 4))
    for user in range(2):
        bitmap.freeze(user, group="txn")
    uncopied = dirty((65536 * 2, 1))
    bitmap.settle(0, success=True, uncopied=uncopied)
    uncopied.unmark(65536 * 2, 65536)
    assert bitmap.settle(1, success=True) is BitmapOutcome.ABDICATED
    assert list(bitmap.runs()) == [(65536 * 2, 65536)]


def test_settle_of_persistent_bitmap_keeps_name_and_persistence():
    bitmap = dirty()
    bitmap.persistent = True
    bitmap.freeze("job")
    assert "name" not in bitmap.successor.describe()
    assert not bitmap.successor.persistent
    bitmap.settle("job", success=True)
    assert (bitmap.name, bitmap.persistent, bitmap.enabled) == ("b", True, True)


def test_inconsistent_bitmap_says_so_and_stops_recording():
    bitmap = dirty()
    bitmap.persistent = True
    bitmap.mark_inconsistent()
    info = bitmap.describe()
    assert info["inconsistent"] is True
    assert info["recording"] is False


def test_next_run_is_limited_in_length():
    bitmap = dirty((0, MIB))
    assert bitmap.next_run(100, max_length=1000) == (100, 1000)
    assert bitmap.next_run(MIB) is None


def test_runs_of_a_disk_all_dirty_at_4_billion_granules_is_one():
    size = 512 << 33
    bitmap = DirtyBitmap(size, 512)
    bitmap.mark(0, size)
    assert list(bitmap.runs()) == [(0, size)]
    assert bitmap.next_clean(0) is None


def test_runs_while_bits_behind_are_reset_yields_all():
    bitmap = dirty(*((i * 131072, 1) for i in range(200)), size=200 * 131072)
    seen = []
    for offset, length in bitmap.runs():
        bitmap.unmark(offset, length)
        seen.append(offset)
    assert seen == [i * 131072 for i in range(200)]
    assert bitmap.count() == 0


def test_resize_of_frozen_bitmap_resizes_the_successor():
    bitmap = dirty((0, MIB))
    bitmap.freeze("job")
    bitmap.resize(2 * MIB)
    bitmap.record_write(2 * MIB - 1, 1)
    bitmap.settle("job", success=False)
    assert list(bitmap.runs()) == [(0, MIB), (2 * MIB - 65536, 65536)]


def test_deserialize_ignores_bits_beyond_the_last_granule():
    bitmap = dirty(size=3 * 65536)
    bitmap.deserialize(0, b"\xff" * 512)
    assert list(bitmap.runs()) == [(0, 3 * 65536)]
    bitmap.deserialize(512, b"\xff" * 512)
    assert bitmap.count() == 3 * 65536


def test_deserialize_replaces_only_its_piece():
    bitmap = dirty((0, 512 << 20), size=512 << 20, granularity=512)
    bitmap.deserialize(8192, bytes(8192))
    assert list(bitmap.runs()) == [(0, 32 << 20), (64 << 20, 448 << 20)]
    bitmap.deserialize_ones(8192, 8192)
    assert list(bitmap.runs()) == [(0, 512 << 20)]


def test_data_length_is_a_bit_for_each_granule():
    assert dirty(size=9 * 65536).data_length == 2
    assert dirty(size=8 * 65536).data_length == 1


PATTERNS = {"odd": (1, 3), "even": (0, 2), "upper pairs": (2, 3), "lower pairs": (0, 1)}
"""Bits of four. What looks like the patterns that thin bits are combined with is not crowded."""


def fill(seeded, kind, base, bits, length):
    """Fill one container's worth of bits in one of the ways that roaring stores."""
    limit = min(65536, length - base)
    if kind == "few":
        bits.update(base + seeded.randrange(limit) for _ in range(20))
    elif kind == "many":
        bits.update(base + seeded.randrange(limit) for _ in range(3000))
    elif kind == "crowded":
        bits.update(base + seeded.randrange(limit) for _ in range(20_000))
    elif kind == "all":
        bits.add_range(base, base + limit)
    elif kind == "runs":
        for _ in range(50):
            first = base + seeded.randrange(limit)
            bits.add_range(first, min(first + seeded.randrange(100), base + limit))
    elif kind in PATTERNS:
        chosen = PATTERNS[kind]
        bits.update(base + bit for bit in range(limit) if bit % 4 in chosen)
        bits.discard(base + seeded.randrange(limit))


@pytest.mark.parametrize("length", [1, 512, 8192, 8200, 65536])
@pytest.mark.parametrize("optimized", [False, True])
def test_pack_of_every_kind_of_container_gives_the_bits(seeded, length, optimized):
    for _ in range(12):
        bits = BitMap()
        for base in range(0, length * 8, 65536):
            kind = seeded.choice(["none", "few", "many", "crowded", "all", "runs", *PATTERNS])
            fill(seeded, kind, base, bits, length * 8)
        if optimized:
            bits.run_optimize()
        plain = bytearray(length)
        for bit in bits:
            plain[bit >> 3] |= 1 << (bit & 7)
        data = bitmap_data.pack(bits, length)
        assert data == plain
        assert bitmap_data.unpack(data) == bits


def test_runs_across_windows_are_joined(monkeypatch):
    monkeypatch.setattr(roaring, "WINDOW_BITS", 8)
    bits = BitMap([0, 5, 6, 7, 8, 9, 15, 16, 30])
    assert list(roaring.runs(bits, 0, 0, 100)) == [(0, 1), (5, 5), (15, 2), (30, 1)]
    assert list(roaring.runs(bits, 2, 24, 63)) == [(24, 16), (60, 3)]


def test_turns_beyond_the_end_of_the_bitmap_are_clean():
    bitmap = dirty((0, 65536), (3 * 65536, 65536), size=4 * 65536)
    assert list(bitmap.turns(0, 6 * 65536, 9)) == [0, 65536, 2 * 65536, 65536, 2 * 65536]
    assert list(bitmap.turns(4 * 65536, 6 * 65536, 9)) == [2 * 65536]
    assert list(bitmap.turns((1 << 60) + 1, (1 << 60) + 9, 9)) == [8]


def test_turns_of_4_gib_less_a_byte_are_told_in_one():
    bitmap = dirty((0, 8 << 30), size=8 << 30)
    length = (4 << 30) - 1
    assert list(bitmap.turns(1, 1 + length, 9)) == [0, length]
    bitmap.clear()
    assert list(bitmap.turns(1, 1 + length, 9)) == [length]


def test_merge_in_steps_refuses_before_the_first_step():
    target = dirty(size=MIB)
    with pytest.raises(QmpError, match="different sizes"):
        target.merge_steps(dirty(size=2 * MIB))


def test_steps_in_turns_let_other_tasks_run_between():
    seen = []

    def steps():
        for number in range(3):
            seen.append(number)
            yield
        return "done"

    async def other():
        for _ in range(3):
            seen.append("other")
            await asyncio.sleep(0)

    async def both():
        return await asyncio.gather(in_turns(steps()), other())

    assert asyncio.run(both())[0] == "done"
    assert seen == [0, "other", 1, "other", 2, "other"]
    seen.clear()
    assert at_once(steps()) == "done"
    assert seen == [0, 1, 2]


def test_merge_of_a_huge_bitmap_is_done_in_many_steps():
    size = 16 << 40
    source = DirtyBitmap(size, 65536)
    for place in range(0, size >> 30, 3):
        source.mark(place << 30, 65536)
    for granularity in (65536, 1 << 20, 32768):
        target = DirtyBitmap(size, granularity)
        steps = sum(1 for _ in target.merge_steps(source))
        assert steps > 2
        assert target.count() == len(source.bits) * max(65536, granularity)


def test_sha256_in_steps_is_that_of_the_bytes():
    bitmap = dirty((9 << 30, MIB), (1 << 40, 1), size=2 << 40)
    data = bytearray(bitmap.data_length)
    for index, piece in bitmap.serialized_pieces(4096):
        data[index * 4096 : (index + 1) * 4096] = piece
    steps = bitmap.sha256_steps()
    assert next(steps) is None
    assert at_once(steps) == hashlib.sha256(data).hexdigest()


def test_latest_bitmap_comes_first_and_a_successor_keeps_its_place():
    serials = itertools.count(1)
    old, new = (DirtyBitmap(MIB, 65536, name) for name in ("old", "new"))
    old.enlist(serials)
    old.create_successor()
    new.enlist(serials)
    assert old.successor is not None
    assert latest_first([old, old.successor, new]) == [new, old.successor, old]
    newest = DirtyBitmap(MIB, 65536, "newest")
    newest.enlist(serials)
    new.create_successor()
    new.abdicate()
    assert latest_first([old, new, newest]) == [new, newest, old]
