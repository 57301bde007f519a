"""SparseBytes against a bytearray, with random operations (hypothesis prints them)."""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from blkxact.testing.sparse import PAGE, SparseBytes

LIMIT = 6 * PAGE
POSITIONS = st.one_of(
    st.integers(0, LIMIT),
    st.builds(lambda page, off: max(0, page * PAGE + off), st.integers(0, 6), st.integers(-2, 2)),
)


class SparseModel(RuleBasedStateMachine):
    def __init__(self):
        super().__init__()
        self.sparse, self.model = SparseBytes(), bytearray()

    def grow(self, size):
        self.model.extend(bytes(max(0, size - len(self.model))))

    @rule(offset=POSITIONS, length=POSITIONS, byte=st.integers(0, 255))
    def write(self, offset, length, byte):
        self.sparse.write(offset, bytes([byte]) * length)
        if length:
            self.grow(offset + length)
            self.model[offset : offset + length] = bytes([byte]) * length

    @rule(offset=POSITIONS, length=POSITIONS, unmap=st.booleans())
    def zero(self, offset, length, unmap):
        self.sparse.zero(offset, length, unmap=unmap)
        if length:
            self.grow(offset + length)
            self.model[offset : offset + length] = bytes(length)

    @rule(offset=POSITIONS, length=POSITIONS)
    def punch(self, offset, length):
        self.sparse.punch(offset, length)
        end = min(offset + length, len(self.model))
        if offset < end:
            self.model[offset:end] = bytes(end - offset)

    @rule(size=POSITIONS)
    def truncate(self, size):
        self.sparse.truncate(size)
        del self.model[size:]
        self.grow(size)

    @rule()
    def write_into_copy(self):
        copy = self.sparse.copy()
        copy.write(0, b"x" * LIMIT)
        copy.truncate(0)

    @rule(offset=POSITIONS, length=POSITIONS)
    def look(self, offset, length):
        expected = bytes(self.model[offset : offset + length]).ljust(length, b"\0")
        assert self.sparse.read(offset, length) == expected
        position, before = offset, None
        for start, count, is_data in self.sparse.map(offset, length):
            assert start == position
            assert count > 0
            assert is_data is not before
            if not is_data:
                assert not any(self.model[start : start + count])
            position, before = start + count, is_data
        assert position == offset + length

    @invariant()
    def same_as_model(self):
        assert self.sparse.size == len(self.model)
        assert self.sparse.read(0, len(self.model)) == self.model
        assert self.sparse.read(len(self.model), 100) == bytes(100)


SparseModel.TestCase.settings = settings(max_examples=60, deadline=None, print_blob=True)
TestSparseModel = SparseModel.TestCase


def test_allocated_size_follows_what_was_written():
    sparse = SparseBytes()
    sparse.truncate(8 << 40)
    assert sparse.allocated_size() == 0
    sparse.write(4 << 40, b"x")
    assert sparse.allocated_size() == PAGE
    sparse.zero(1 << 40, 1 << 30, unmap=False)
    assert sparse.allocated_size() == PAGE + (1 << 30)
    assert sparse.map(0, 8 << 40) == [
        (0, 4 << 40, False),
        (4 << 40, PAGE, True),
        ((4 << 40) + PAGE, (4 << 40) - PAGE, False),
    ]
    sparse.zero(0, 8 << 40, unmap=True)
    assert sparse.allocated_size() == 0


def test_map_beyond_the_end_is_a_hole():
    sparse = SparseBytes()
    sparse.write(0, b"x" * 100)
    assert sparse.map(0, 3 * PAGE) == [(0, 100, True), (100, 3 * PAGE - 100, False)]
    assert sparse.map(5 * PAGE, PAGE) == [(5 * PAGE, PAGE, False)]
