"""Reference counts of every width, against the definition in the specification."""

import pytest

from blkxact.drivers.qcow2 import refcount_widths as widths


def bits_on_disk(order, data, index):
    """The count as the specification defines it."""
    bits = 1 << order
    if bits < 8:
        per_byte = 8 // bits
        return data[index // per_byte] >> (index % per_byte * bits) & ((1 << bits) - 1)
    size = bits // 8
    return int.from_bytes(data[index * size : (index + 1) * size], "big")


@pytest.mark.parametrize("order", range(7))
def test_counts_unpacked_are_those_of_the_specification(order, seeded):
    data = seeded.randbytes(512)
    counts = widths.unpack(order, data)
    number = 512 * 8 >> order
    assert list(counts) == [bits_on_disk(order, data, index) for index in range(number)]


@pytest.mark.parametrize("order", range(7))
def test_part_of_counts_packed_changes_just_that_part(order, seeded):
    data = bytearray(seeded.randbytes(512))
    counts = widths.unpack(order, data)
    for _ in range(50):
        first = seeded.randrange(len(counts))
        end = seeded.randrange(first, len(counts)) + 1
        for index in range(first, end):
            counts[index] = seeded.randrange(widths.maximum(order) + 1)
        at, packed = widths.pack(order, counts, first, end)
        data[at : at + len(packed)] = packed
        assert len(packed) <= ((end - first) << order) // 8 + 2
    assert widths.unpack(order, data) == counts


@pytest.mark.parametrize("order", [0, 3, 4, 5, 6])
def test_zeroes_are_found_where_they_are(order, seeded):
    top = widths.maximum(order)
    values = [1, 1, 1, top, 256 & top or 1]
    for _ in range(100):
        counts = widths.zero_counts(order, 300)
        for index in range(300):
            counts[index] = 0 if seeded.random() < 0.05 else seeded.choice(values)
        listed = list(counts)
        start = seeded.randrange(301)
        found = widths.find_zero(counts, start)
        assert found == (listed.index(0, start) if 0 in listed[start:] else 300)
        run = widths.zero_run(counts, start, 300)
        rest = listed[start:]
        assert run == next((i for i, value in enumerate(rest) if value), len(rest))
