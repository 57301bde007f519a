"""BlockCopy with one user at a time: what it copies, how, and what is left after failures."""

from __future__ import annotations

import asyncio
import errno
import gc
import random

import pytest
from tests.memory_disks import HOLE, KIB, ZERO, Gate, MemoryDisks, failing, in_turn

from blkxact.bitmap import DirtyBitmap
from blkxact.block.block_copy import BlockCopy, target_cluster_size
from blkxact.block.chain import backing_chain_next
from blkxact.block.types import Permission
from blkxact.storage.errors import CopyError
from blkxact.testing.waiting import until_idle

MIB = 1024 * KIB
CLUSTER = 64 * KIB
LENGTH = 40 * MIB + 20 * KIB


class Pair:
    """A source with data, zeroes and holes; an empty target; what copies between them."""

    def __init__(self, length: int = LENGTH, *, places: bool = True, **how) -> None:
        self.disks = MemoryDisks()
        self.source = self.disks.disk("source", length, places=places)
        self.target = self.disks.disk("target", length)
        self.bitmap = DirtyBitmap(length, CLUSTER)
        self.bitmap.mark(0, length)
        self.progress: list[tuple[int, int]] = []
        self.copy = BlockCopy(
            self.disks.edge("source"),
            self.disks.edge("target", Permission.WRITE),
            copy_bitmap=self.bitmap,
            cluster_size=CLUSTER,
            progress=lambda done, left: self.progress.append((done, left)),
            **how,
        )

    def put_below(self, name: str) -> None:
        self.disks.backing("source", name)
        self.copy.base = self.disks.graph.nodes[name]

    def data(self, disk=None) -> bytes:
        return bytes((disk or self.target).file.data)


def fill_random(pair: Pair, rng: random.Random) -> None:
    """Data here and there, not in whole clusters."""
    length = pair.source.length
    for _ in range(40):
        size = rng.choice([4 * KIB, 60 * KIB, CLUSTER, 300 * KIB, 2 * MIB])
        offset = min(rng.randrange(length), length - size) // (4 * KIB) * (4 * KIB)
        pair.source.fill(offset, rng.randbytes(size))


@pytest.mark.parametrize("places", [True, False], ids=["by-file", "by-bytes"])
async def test_copy_dirty_everything_target_equals_source(seeded, places):
    pair = Pair(places=places)
    fill_random(pair, seeded)
    await pair.copy.copy_dirty()
    assert pair.data() == pair.data(pair.source)
    assert pair.bitmap.count() == 0
    assert pair.copy.remaining == 0
    assert sum(done for done, _ in pair.progress) == 40 * MIB + CLUSTER
    assert pair.progress[-1][1] == 0


async def test_copy_dirty_only_marked_clusters_are_touched(seeded):
    pair = Pair()
    pair.source.fill(0, seeded.randbytes(4 * MIB))
    pair.bitmap.clear()
    pair.bitmap.mark(MIB, CLUSTER)
    pair.bitmap.mark(3 * MIB, 2 * CLUSTER)
    await pair.copy.copy_dirty()
    writes = [(o, n) for name, o, n in pair.target.log if name != "status"]
    assert writes == [(MIB, CLUSTER), (3 * MIB, 2 * CLUSTER)]
    assert pair.data()[MIB : MIB + CLUSTER] == pair.data(pair.source)[MIB : MIB + CLUSTER]


async def test_copy_data_with_place_never_comes_through_python():
    pair = Pair(8 * MIB)
    pair.source.fill(0, b"x" * 8 * MIB)
    await pair.copy.copy_dirty()
    assert pair.target.log == [("copy", 0, 8 * MIB)]
    assert all(name == "status" for name, *_ in pair.source.log)


async def test_copy_status_asked_for_long_ranges():
    pair = Pair(128 * MIB, target_is_blank=True)
    await pair.copy.copy_dirty()
    asked = [entry for entry in pair.source.log if entry[0] == "status"]
    assert [length for _, _, length in asked] == [64 * MIB] * 2


@pytest.mark.parametrize(
    ("gap", "asked"),
    [
        (MIB // 2, [(0, 2 * CLUSTER + MIB // 2)]),
        (4 * MIB, [(0, CLUSTER), (4 * MIB + CLUSTER, CLUSTER)]),
    ],
)
async def test_copy_status_asked_across_short_gaps_only(gap, asked):
    pair = Pair(8 * MIB)
    pair.bitmap.clear()
    pair.bitmap.mark(0, CLUSTER)
    pair.bitmap.mark(CLUSTER + gap, CLUSTER)
    await pair.copy.copy_dirty()
    assert [(o, n) for name, o, n in pair.source.log if name == "status"] == asked


async def test_copy_zeroes_are_written_as_zeroes_over_old_data():
    pair = Pair(2 * MIB)
    pair.target.fill(0, b"old" * 1000)
    await pair.copy.copy_dirty()
    assert not any(pair.data())
    assert {name for name, *_ in pair.target.log} == {"status", "zero"}


async def test_copy_zeroes_not_written_where_target_layer_says_zero():
    pair = Pair(2 * MIB)
    pair.target.kinds = [ZERO] * len(pair.target.kinds)
    await pair.copy.copy_dirty()
    assert not any(name == "zero" for name, *_ in pair.target.log)


async def test_copy_zeroes_written_where_target_holds_nothing_unless_blank():
    explicit, blank = Pair(2 * MIB), Pair(2 * MIB, target_is_blank=True)
    await explicit.copy.copy_dirty()
    await blank.copy.copy_dirty()
    # A backing file may be put below the target later; only a blank one has none for ever.
    assert ZERO in explicit.target.kinds
    assert set(blank.target.kinds) == {HOLE}


async def test_copy_compressed_goes_through_buffers_of_whole_clusters():
    pair = Pair(2 * MIB + 4 * CLUSTER, compress=True)
    pair.source.fill(0, b"y" * (2 * MIB + 4 * CLUSTER))
    await pair.copy.copy_dirty()
    steps = [(0, MIB), (MIB, MIB), (2 * MIB, 4 * CLUSTER)]
    assert sorted(pair.target.log) == [("compressed", *step) for step in steps]


async def test_copy_top_skips_what_only_backing_holds(seeded):
    pair = Pair(2 * MIB, skip_unallocated=True)
    base = pair.disks.disk("base", 2 * MIB)
    base.fill(0, seeded.randbytes(2 * MIB))
    pair.put_below("base")
    pair.source.fill(CLUSTER, b"t" * (CLUSTER + 4 * KIB))
    await pair.copy.copy_dirty()
    data = pair.data()
    assert not any(data[:CLUSTER])
    assert data[CLUSTER : 2 * CLUSTER] == b"t" * CLUSTER
    # Half allocated: the whole cluster is copied, with what shows through.
    half = data[2 * CLUSTER : 3 * CLUSTER]
    assert half == b"t" * 4 * KIB + pair.data(base)[2 * CLUSTER + 4 * KIB : 3 * CLUSTER]
    assert not any(data[3 * CLUSTER :])


async def test_copy_top_reports_less_to_do_before_it_copies():
    pair = Pair(2 * MIB, skip_unallocated=True)
    pair.disks.disk("base", 2 * MIB)
    pair.put_below("base")
    pair.source.fill(CLUSTER, b"t" * CLUSTER)
    await pair.copy.copy_dirty()
    assert pair.progress == [(0, CLUSTER), (CLUSTER, 0)]


FAULTS = [
    pytest.param("source", "read", False, True, id="read"),
    pytest.param("target", "write", False, False, id="write"),
    pytest.param("target", "copy", True, False, id="copy"),
    pytest.param("target", "zero", True, False, id="zero"),
]


@pytest.mark.parametrize(("side", "operation", "places", "reading"), FAULTS)
async def test_copy_failure_names_side_and_loses_no_bit(seeded, side, operation, places, reading):
    pair = Pair(8 * MIB, places=places)
    if operation != "zero":
        pair.source.fill(0, seeded.randbytes(8 * MIB))
    disk = getattr(pair, side)
    disk.hook = failing(operation, 5 * MIB, errno.ENOSPC)
    with pytest.raises(CopyError) as caught:
        await pair.copy.copy_dirty()
    assert (caught.value.errno, caught.value.reading) == (errno.ENOSPC, reading)
    assert pair.bitmap.get(5 * MIB)
    assert not pair.copy._pieces
    assert pair.copy.remaining == pair.bitmap.count()
    # What is clean was copied; the retry does the rest.
    clean = [o for o in range(0, 8 * MIB, CLUSTER) if not pair.bitmap.get(o)]
    source, target = pair.data(pair.source), pair.data()
    assert all(source[o : o + CLUSTER] == target[o : o + CLUSTER] for o in clean)
    await pair.copy.copy_dirty()
    assert pair.data() == source
    assert pair.bitmap.count() == 0


async def test_copy_from_file_read_failure_is_the_sources():
    pair = Pair(MIB)
    pair.source.fill(0, b"z" * MIB)
    pair.source.file.fail_reading = True
    with pytest.raises(CopyError) as caught:
        await pair.copy.copy_dirty()
    assert caught.value.reading
    assert pair.bitmap.count() == MIB


async def test_copy_source_without_status_is_read():
    pair = Pair(MIB)
    pair.source.fill(0, b"s" * MIB)
    pair.source.hook = failing("status", 0)
    await pair.copy.copy_dirty()
    assert pair.data() == b"s" * MIB


async def test_copy_cancelled_task_ends_when_pieces_are_over():
    pair = Pair(8 * MIB)
    pair.source.fill(0, b"c" * 8 * MIB)
    pair.target.hook = gate = Gate("copy")
    task = asyncio.create_task(pair.copy.copy_dirty(max_chunk=MIB))
    await gate.arrived.wait()
    task.cancel()
    await until_idle()
    assert not task.done()
    gate.opened.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not pair.copy._pieces
    done = 8 * MIB - pair.bitmap.count()
    assert 0 < done < 8 * MIB
    assert pair.data()[:MIB] == b"c" * MIB


class Control:
    """A job that pauses once and records what it is asked."""

    def __init__(self, copy: BlockCopy, speed: int = 0) -> None:
        self.copy = copy
        self.speed = speed
        self.accounted: list[int] = []
        self.waits = 0
        self.pause_after = -1
        self.pieces_at_pause: int | None = None
        self.stop_after = -1

    async def limit(self) -> None:
        self.waits += 1
        if self.stop_after >= 0 and sum(self.accounted) >= self.stop_after:
            raise RuntimeError("stop")

    def account(self, length: int) -> None:
        self.accounted.append(length)

    def pause_requested(self) -> bool:
        return 0 <= self.pause_after <= sum(self.accounted)

    async def pause(self) -> None:
        self.pieces_at_pause = len(self.copy._pieces)
        self.pause_after = -1


async def test_copy_pause_finds_nothing_in_flight():
    pair = Pair(64 * MIB)
    pair.source.fill(0, b"p" * 64 * MIB)
    control = Control(pair.copy)
    control.pause_after = 20 * MIB
    await pair.copy.copy_dirty(control)
    assert control.pieces_at_pause == 0
    assert pair.bitmap.count() == 0
    assert sum(control.accounted) == 64 * MIB


async def test_copy_paused_again_while_it_waits_for_its_speed_starts_nothing():
    """The wait for the speed ends early when a pause is asked for: also right after a pause."""
    pair = Pair(2 * CLUSTER)
    in_flight: list[int] = []

    class PausedTwice(Control):
        pauses = 0
        requested = False

        async def limit(self) -> None:
            if self.pauses < 2:
                in_flight.append(len(self.copy._pieces))
                self.requested = True

        def pause_requested(self) -> bool:
            return self.requested

        async def pause(self) -> None:
            self.pauses += 1
            self.requested = False

    await pair.copy.copy_dirty(PausedTwice(pair.copy), max_chunk=CLUSTER)
    assert len(in_flight) >= 2
    assert not any(in_flight)


async def test_copy_with_speed_takes_small_pieces():
    pair = Pair(8 * MIB)
    pair.source.fill(0, b"p" * 8 * MIB)
    control = Control(pair.copy, speed=1)
    await pair.copy.copy_dirty(control)
    assert max(control.accounted) == MIB


async def test_compressed_copy_with_speed_takes_one_cluster_at_a_time():
    pair = Pair(MIB, compress=True)
    pair.source.fill(0, b"p" * (MIB // 2))
    control = Control(pair.copy, speed=1)
    await pair.copy.copy_dirty(control)
    assert control.accounted == [CLUSTER] * 16


async def test_copy_waits_for_its_speed_before_each_piece_and_not_after_the_last():
    pair = Pair(4 * CLUSTER)
    control = Control(pair.copy, speed=1)
    await pair.copy.copy_dirty(control, max_chunk=CLUSTER)
    assert control.accounted == [CLUSTER] * 4
    assert control.waits == 4


async def test_copy_that_is_ended_while_it_waits_for_its_speed_starts_nothing_more():
    pair = Pair(8 * MIB)
    control = Control(pair.copy, speed=1)
    control.stop_after = MIB
    with pytest.raises(RuntimeError, match="stop"):
        await pair.copy.copy_dirty(control)
    assert control.accounted == [MIB]
    assert list(pair.bitmap.runs()) == [(MIB, 7 * MIB)]


async def test_copy_with_speed_waits_where_data_end():
    """Zeroes are a request of their own, as in QEMU: what a client sees is the data's progress."""
    pair = Pair(8 * CLUSTER)
    pair.source.fill(0, b"p" * CLUSTER)
    control = Control(pair.copy, speed=1)
    await pair.copy.copy_dirty(control)
    assert control.accounted == [CLUSTER, 7 * CLUSTER]


async def test_copy_max_chunk_bounds_pieces():
    pair = Pair(4 * MIB)
    control = Control(pair.copy)
    await pair.copy.copy_dirty(control, max_chunk=2 * CLUSTER)
    assert max(control.accounted) == 2 * CLUSTER


async def test_copy_control_that_raises_ends_copying_and_keeps_the_rest():
    pair = Pair(64 * MIB)
    pair.source.fill(0, b"p" * 64 * MIB)
    control = Control(pair.copy)
    control.stop_after = 32 * MIB
    with pytest.raises(RuntimeError, match="stop"):
        await pair.copy.copy_dirty(control)
    assert not pair.copy._pieces
    assert pair.bitmap.count() == 32 * MIB


async def test_copy_before_write_waits_for_the_background_piece():
    pair = Pair(4 * MIB)
    pair.source.fill(0, b"b" * 4 * MIB)
    pair.target.hook = gate = Gate("copy")
    background = asyncio.create_task(pair.copy.copy_dirty())
    await gate.arrived.wait()
    guest = asyncio.create_task(pair.copy.copy_before_write(MIB + 5, 10))
    await until_idle()
    assert not guest.done()
    gate.opened.set()
    await asyncio.gather(background, guest)
    assert len(pair.target.log) == 1


async def test_copy_before_write_copies_itself_after_foreign_failure():
    pair = Pair(MIB)
    pair.source.fill(0, b"f" * MIB)
    gate = Gate("copy")
    pair.target.hook = in_turn(gate, failing("copy", 0))
    background = asyncio.create_task(pair.copy.copy_dirty())
    await gate.arrived.wait()
    guest = asyncio.create_task(pair.copy.copy_before_write(0, 512))
    await asyncio.sleep(0)
    gate.opened.set()
    with pytest.raises(CopyError):
        await background
    await guest
    assert pair.data()[:CLUSTER] == b"f" * CLUSTER
    assert not pair.bitmap.get(0)
    assert pair.bitmap.get(CLUSTER)


async def test_failure_that_nobody_waits_for_any_more_only_sets_its_bits_again():
    unhandled = []
    asyncio.get_running_loop().set_exception_handler(lambda _, what: unhandled.append(what))
    pair = Pair()
    pair.source.fill(0, b"x" * CLUSTER)
    gate = Gate("copy")
    pair.target.hook = in_turn(gate, failing("copy", 0))
    guest = asyncio.create_task(pair.copy.copy_before_write(0, CLUSTER))
    await gate.arrived.wait()
    guest.cancel()
    await asyncio.wait([guest])
    gate.opened.set()
    await asyncio.wait([piece.task for piece in pair.copy._pieces])
    del guest
    await asyncio.sleep(0)
    gc.collect()
    assert unhandled == []
    assert pair.bitmap.get(0)


async def test_copy_before_write_cancelled_guest_leaves_the_copy_running():
    pair = Pair(MIB)
    pair.source.fill(0, b"g" * MIB)
    pair.target.hook = gate = Gate("copy")
    guest = asyncio.create_task(pair.copy.copy_before_write(0, 512))
    await gate.arrived.wait()
    guest.cancel()
    with pytest.raises(asyncio.CancelledError):
        await guest
    assert pair.copy._pieces
    gate.opened.set()
    await pair.copy.copy_before_write(0, 512)
    assert not pair.copy._pieces
    assert pair.data()[:CLUSTER] == b"g" * CLUSTER


async def test_target_cluster_size_is_the_targets_or_64k_at_least(caplog):
    disks = MemoryDisks()
    for name, own, expected in (("big", 2 * MIB, 2 * MIB), ("small", 512, CLUSTER)):
        disks.disk(name, MIB).cluster_size = own
        assert target_cluster_size(disks.graph.nodes[name]) == expected
    assert not caplog.records
    disks.disk("unknown", MIB)
    assert target_cluster_size(disks.graph.nodes["unknown"]) == CLUSTER
    assert "doesn't provide information about the block size" in caplog.text


async def test_backing_chain_next_goes_past_nothing_without_filters():
    disks = MemoryDisks()
    disks.disk("top", MIB)
    disks.disk("base", MIB)
    disks.backing("top", "base")
    assert backing_chain_next(disks.graph.nodes["top"]) is disks.graph.nodes["base"]
    assert backing_chain_next(disks.graph.nodes["base"]) is None


async def test_copy_failing_in_the_middle_of_a_piece_keeps_what_was_copied(seeded):
    pair = Pair(places=False)
    pair.source.fill(0, seeded.randbytes(8 * MIB))
    pair.bitmap.clear()
    for cluster in (0, 4, 8):
        pair.bitmap.mark(cluster * CLUSTER, CLUSTER)
    pair.source.hook = failing("read", 4 * CLUSTER)
    with pytest.raises(CopyError):
        await pair.copy.copy_dirty()
    assert list(pair.bitmap.runs()) == [(4 * CLUSTER, CLUSTER), (8 * CLUSTER, CLUSTER)]
    assert pair.progress[-1] == (CLUSTER, 2 * CLUSTER)


# Several runs in one write


class Batches:
    """Notes the runs that a driver gets together."""

    def __init__(self, driver) -> None:
        self.seen: list[list[tuple[int, int]]] = []
        single = driver.pwrite_runs

        async def pwrite_runs(runs):
            self.seen.append([(offset, len(payload)) for offset, payload in runs])
            await single(runs)

        driver.pwrite_runs = pwrite_runs


async def test_copy_scattered_clusters_are_one_write_however_far_apart():
    pair = Pair(40 * MIB)
    pair.source.fill(0, b"x" * (40 * MIB))
    pair.bitmap.clear()
    places = [0, 3 * CLUSTER, 9 * MIB, 33 * MIB]
    for place in places:
        pair.bitmap.mark(place, CLUSTER)
    batches = Batches(pair.target)
    await pair.copy.copy_dirty()
    assert batches.seen == [[(place, CLUSTER) for place in places]]


async def test_copy_bit_set_again_between_two_windows_is_copied_too():
    pair = Pair(40 * MIB)
    pair.source.fill(0, b"x" * (40 * MIB))
    pair.bitmap.clear()
    for place in (0, 33 * MIB):
        pair.bitmap.mark(place, CLUSTER)

    async def hook(name, offset, _):
        if name == "status" and offset == 33 * MIB:
            pair.bitmap.mark(10 * MIB, CLUSTER)  # as a failed copy before a write does

    pair.source.hook = hook
    await pair.copy.copy_dirty()
    assert pair.data()[10 * MIB : 10 * MIB + CLUSTER] == b"x" * CLUSTER
    assert pair.copy.remaining == 0


async def test_copy_failed_batch_is_set_again_and_tells_the_target():
    pair = Pair(40 * MIB)
    pair.source.fill(0, b"x" * (40 * MIB))
    pair.bitmap.clear()
    for place in (0, 9 * MIB, 33 * MIB):
        pair.bitmap.mark(place, CLUSTER)
    pair.target.hook = failing("copy", 9 * MIB, errno.ENOSPC)
    with pytest.raises(CopyError) as caught:
        await pair.copy.copy_dirty()
    assert (caught.value.errno, caught.value.reading) == (errno.ENOSPC, False)
    assert list(pair.bitmap.runs()) == [(place, CLUSTER) for place in (0, 9 * MIB, 33 * MIB)]
    await pair.copy.copy_dirty()
    assert pair.data()[33 * MIB : 33 * MIB + CLUSTER] == b"x" * CLUSTER


async def test_copy_holes_between_data_are_zeroed_by_one_request():
    pair = Pair(8 * MIB)
    for place in range(MIB, 8 * MIB, MIB):
        pair.source.fill(place, b"x" * CLUSTER)
    await pair.copy.copy_dirty()
    assert [(o, n) for name, o, n in pair.target.log if name == "zero"] == [(0, 8 * MIB)]
    assert pair.data() == pair.data(pair.source)


async def test_copy_holes_leave_alone_what_the_target_holds_between_them():
    pair = Pair(8 * MIB)
    pair.bitmap.clear()
    pair.bitmap.mark(0, 2 * CLUSTER)
    pair.bitmap.mark(4 * CLUSTER, 2 * CLUSTER)
    pair.target.fill(2 * CLUSTER, b"k" * (2 * CLUSTER))
    await pair.copy.copy_dirty()
    assert pair.data()[2 * CLUSTER : 4 * CLUSTER] == b"k" * (2 * CLUSTER)


@pytest.mark.parametrize("places", [True, False], ids=["by-file", "by-bytes"])
async def test_copy_with_one_worker_fails_with_just_what_lies_before_copied(places):
    pair = Pair(2 * MIB, places=places)
    pair.source.fill(CLUSTER, b"x" * CLUSTER)
    pair.source.fill(MIB, b"x" * CLUSTER)
    if places:
        pair.target.hook = failing("copy", MIB)
    else:
        pair.source.hook = failing("read", MIB)
    with pytest.raises(CopyError):
        await pair.copy.copy_dirty(workers=1)
    assert list(pair.bitmap.runs()) == [(MIB, MIB)]
    assert pair.progress[-1] == (MIB, MIB)


async def test_copy_asked_to_pause_during_its_last_piece_pauses_before_it_ends():
    pair = Pair(2 * MIB)
    pair.source.fill(0, b"x" * 2 * MIB)

    class PausedAtTheEnd(Control):
        def pause_requested(self) -> bool:
            return self.pieces_at_pause is None and not self.copy.remaining

    control = PausedAtTheEnd(pair.copy)
    await pair.copy.copy_dirty(control)
    assert control.pieces_at_pause == 0
