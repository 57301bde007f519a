"""DirtyBitmap against a set of dirty granules, with random operations (hypothesis prints them)."""

import hashlib
import itertools

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from blkxact.bitmap import DirtyBitmap
from blkxact.enums import BitmapOutcome

GRANULARITIES = [512, 4096, 65536]


class BitmapModel(RuleBasedStateMachine):
    """The model: ``old`` dirty granules, and those that came while the bitmap was frozen."""

    @initialize(
        granularity=st.sampled_from(GRANULARITIES),
        granules=st.one_of(
            st.integers(1, 40),
            st.sampled_from([63, 64, 65, 65535, 65536, 65537, 1 << 22, (1 << 22) + 9]),
            # The two kinds of roaring bitmap meet at 2^32 bits.
            st.sampled_from([(1 << 32) - 1, 1 << 32, (1 << 32) + 1, 1 << 35]),
        ),
        cut=st.integers(0, 511),
    )
    def create(self, granularity, granules, cut):
        self.granularity = granularity
        self.size = granularity * granules - cut
        self.bitmap = DirtyBitmap(self.size, granularity, "b")
        self.old, self.new = set(), None
        self.enabled = True

    def granules(self):
        return -(-self.size // self.granularity)

    def pick_range(self, data, *, limit=300):
        """Draw a range in granules, mostly near the places where something may go wrong."""
        count = self.granules()
        edges = sorted({e for e in (0, 1 << 16, 1 << 22, 1 << 32, count) if e <= count})
        edge = data.draw(st.sampled_from(edges), label="edge")
        first = min(max(0, edge + data.draw(st.integers(-200, 200))), count - 1)
        length = min(data.draw(st.integers(1, limit)), count - first)
        return first, length

    def pick_bytes(self, data):
        first, length = self.pick_range(data)
        offset = first * self.granularity + data.draw(st.integers(0, self.granularity - 1))
        end = (first + length) * self.granularity - data.draw(st.integers(0, self.granularity - 1))
        end = min(end, self.size)
        offset = min(offset, self.size - 1)
        return offset, max(end - offset, 1)

    def covered(self, offset, length):
        return set(range(offset // self.granularity, (offset + length - 1) // self.granularity + 1))

    @rule(data=st.data())
    def record_write(self, data):
        offset, length = self.pick_bytes(data)
        self.bitmap.record_write(offset, length)
        if self.enabled:
            (self.old if self.new is None else self.new).update(self.covered(offset, length))

    @rule(data=st.data())
    def mark(self, data):
        offset, length = self.pick_bytes(data)
        self.bitmap.mark(offset, length)
        self.old |= self.covered(offset, length)

    @rule(data=st.data())
    def unmark(self, data):
        first, length = self.pick_range(data)
        offset = first * self.granularity
        end = min((first + length) * self.granularity, self.size)
        self.bitmap.unmark(offset, end - offset)
        self.old -= self.covered(offset, end - offset)

    @precondition(lambda self: self.new is None)
    @rule(enabled=st.booleans())
    def enable(self, enabled):
        self.bitmap.enabled = self.enabled = enabled

    @precondition(lambda self: self.new is None)
    @rule(undo=st.booleans(), data=st.data())
    def clear(self, undo, data):
        saved = self.bitmap.clear()
        assert self.bitmap.count() == 0
        if undo:
            self.bitmap.mark(*self.pick_bytes(data))
            self.bitmap.restore(saved)
        else:
            self.old.clear()

    @rule(data=st.data())
    def save_and_restore(self, data):
        saved = self.bitmap.save()
        self.bitmap.mark(*self.pick_bytes(data))
        self.bitmap.restore(saved)

    @precondition(lambda self: self.new is None)
    @rule(granularity=st.sampled_from(GRANULARITIES), data=st.data())
    def merge(self, granularity, data):
        source = DirtyBitmap(self.size, granularity, "source")
        for _ in range(data.draw(st.integers(0, 3))):
            offset, length = self.pick_bytes(data)
            source.mark(offset, length)
            start = offset // granularity * granularity
            end = min(-(-(offset + length) // granularity) * granularity, self.size)
            self.old |= self.covered(start, end - start)
        self.bitmap.merge(source)

    @precondition(lambda self: self.new is None)
    @rule(data=st.data())
    def merge_with_many_runs(self, data):
        """The source is so fine, or so coarse, that its bits are worked on in many windows."""
        ratio = data.draw(st.sampled_from([1 / 128, 1 / 16, 2, 1 << 10, 1 << 24]))
        granularity = max(512, int(self.granularity * ratio))
        source = DirtyBitmap(self.size, granularity, "source")
        count = -(-self.size // granularity)
        first = data.draw(st.integers(0, count - 1))
        step = data.draw(st.sampled_from([1, 2, 3, 17, 1 << 15]))
        for granule in range(first, min(count, first + 60 * step), step):
            source.mark(granule * granularity, 1)
            start = granule * granularity
            end = min(start + granularity, self.size)
            if end - start > 300 * self.granularity:  # too much for the model
                source.unmark(start, end - start)
                break
            self.old |= self.covered(start, end - start)
        self.bitmap.merge(source)

    @rule()
    def swap_for_copy_in_bits(self):
        copy = self.bitmap.copy()
        self.bitmap.clear()
        self.bitmap.absorb(copy)
        copy.clear()

    @rule(granules=st.integers(-50, 50), cut=st.integers(0, 511))
    def resize(self, granules, cut):
        size = max(1, (self.granules() + granules) * self.granularity - cut)
        self.bitmap.resize(size)
        self.size = size
        keep = self.granules()
        self.old = {bit for bit in self.old if bit < keep}
        if self.new is not None:
            self.new = {bit for bit in self.new if bit < keep}

    @precondition(lambda self: self.new is None)
    @rule(users=st.integers(1, 3))
    def freeze(self, users):
        self.users = list(range(users))
        for user in self.users:
            self.bitmap.freeze(user, group="txn")
        self.new = set()

    @precondition(lambda self: self.new is not None)
    @rule(data=st.data())
    def settle(self, data):
        users = self.users
        results = [data.draw(st.booleans()) for _ in users]
        outcomes = [
            self.bitmap.settle(user, success=success)
            for user, success in zip(users, results, strict=True)
        ]
        assert outcomes[:-1] == [None] * (len(users) - 1)
        if all(results):
            assert outcomes[-1] is BitmapOutcome.ABDICATED
            self.old = self.new
        else:
            assert outcomes[-1] is BitmapOutcome.RECLAIMED
            self.old |= self.new
        self.new = None

    @rule(piece=st.sampled_from([512, 8192, 65536]))
    def serialize_and_deserialize(self, piece):
        other = DirtyBitmap(self.size, self.granularity)
        other.mark(0, self.size)
        other.clear()
        for index, data in self.bitmap.serialized_pieces(piece):
            assert len(data) == piece
            assert data == self.model_data(index * piece, piece)
            other.deserialize(index * piece, data)
        assert list(other.runs()) == list(self.bitmap.runs())

    @precondition(lambda self: self.granules() <= 1 << 17)
    @rule()
    def sha256(self):
        length = -(-self.granules() // 64) * 8
        digest = hashlib.sha256(self.model_data(0, length)).hexdigest()
        assert self.bitmap.sha256() == digest

    def model_data(self, position, length):
        data = bytearray(length)
        for bit in self.old:
            if 0 <= bit - position * 8 < length * 8:
                data[(bit >> 3) - position] |= 1 << (bit & 7)
        return bytes(data)

    @rule(data=st.data())
    def search(self, data):
        offset, length = self.pick_bytes(data)
        end = offset + length
        dirty = self.covered(offset, length) & self.old
        clean = self.covered(offset, length) - self.old
        expected = max(offset, min(dirty) * self.granularity) if dirty else None
        assert self.bitmap.next_dirty(offset, end) == expected
        expected = max(offset, min(clean) * self.granularity) if clean else None
        assert self.bitmap.next_clean(offset, end) == expected
        assert self.bitmap.get(offset) == (offset // self.granularity in self.old)
        inside = [
            (max(start, offset), min(stop, end) - max(start, offset))
            for start, stop in self.model_runs()
            if start < end and stop > offset
        ]
        assert list(self.bitmap.runs(offset, end)) == inside
        assert self.bitmap.next_run(offset, end) == (inside[0] if inside else None)
        self.check_turns(offset, end, data)

    def check_turns(self, start, end, data):
        """Clean and dirty lengths by turns, made again from a set of the granules."""
        changes = []
        position, state = start, False
        while position < end:
            granule = position // self.granularity
            if (granule in self.old) != state:
                changes.append(position)
                state = not state
            position = (granule + 1) * self.granularity
        edges = [start, *changes, end]
        expected = [b - a for a, b in itertools.pairwise(edges)]
        found = list(self.bitmap.turns(start, end, 1000))
        assert found == expected
        limit = data.draw(st.integers(1, 5), label="limit")
        short = list(self.bitmap.turns(start, end, limit))
        assert short == expected[: len(short)]
        assert len(short) >= min(limit, len(expected))

    def model_runs(self):
        runs = []
        for bit in sorted(self.old):
            start, stop = bit * self.granularity, min((bit + 1) * self.granularity, self.size)
            if runs and runs[-1][1] == start:
                runs[-1] = (runs[-1][0], stop)
            else:
                runs.append((start, stop))
        return runs

    @invariant()
    def same_as_model(self):
        if not hasattr(self, "bitmap"):
            return
        bitmap = self.bitmap
        assert bitmap.count() == len(self.old) * self.granularity
        assert [(o, o + n) for o, n in bitmap.runs()] == self.model_runs()
        assert bitmap.recording == self.enabled
        assert bitmap.busy == bitmap.frozen == (self.new is not None)
        if self.new is not None:
            assert bitmap.successor.count() == len(self.new) * self.granularity


BitmapModel.TestCase.settings = settings(
    max_examples=60, stateful_step_count=30, deadline=None, print_blob=True
)
TestBitmapModel = BitmapModel.TestCase
