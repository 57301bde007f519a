"""Which clusters hold metadata, beside a dictionary; a long table costs no more than a short."""

import tracemalloc
from array import array

import pytest

from blkxact.drivers.qcow2.metadata_file import filled_part
from blkxact.drivers.qcow2.metadata_guard import ACTIVE_L1, HEADER, SINGLE, MetadataGuard


def test_guard_knows_what_a_dictionary_of_clusters_knows(seeded):
    for _ in range(40):
        guard, model = MetadataGuard(9), {0: HEADER}
        for step in range(60):
            first, number = seeded.randrange(1, 90), seeded.choice([1, 3, SINGLE + 1, 25])
            clusters = range(first, first + number)
            if seeded.random() < 0.6 and not any(cluster in model for cluster in clusters):
                guard.add(f"table {step}", first, number)
                model.update(dict.fromkeys(clusters, f"table {step}"))
            elif seeded.random() < 0.5:
                guard.forget(first, number)
                for cluster in clusters:
                    model.pop(cluster, None)
            for cluster in range(130):
                assert guard.overlap(cluster, cluster + 1) == model.get(cluster)
            names = {model[cluster] for cluster in clusters if cluster in model}
            found = guard.overlap(first, first + number)
            assert found in names if names else found is None


def test_table_that_claims_to_be_long_takes_little_memory():
    guard = MetadataGuard(9)
    tracemalloc.start()
    for number in range(1000):
        guard.add_bytes(ACTIVE_L1, (number * 3 + 1) << 30, 1 << 30)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1 << 20
    assert guard.overlap((1 << 30) + 5 >> 9, ((1 << 30) + 5 >> 9) + 1) == ACTIVE_L1


@pytest.mark.parametrize(
    ("table", "filled"),
    [([], []), ([0, 0], []), ([1, 0, 0], [1]), ([0, 1 << 56, 0], [0, 1 << 56]), ([0, 1], [0, 1])],
)
def test_rest_of_a_table_that_is_empty_is_left_out(table, filled):
    assert list(filled_part(array("Q", table))) == filled
