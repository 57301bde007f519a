"""Options as QEMU keeps them: flat, and in the order of a hash table."""

from __future__ import annotations

from blkxact.block.qdict import flattened, in_qdict_order


def test_flattened_names_what_is_within_lists_and_objects():
    options = {"a": {"b": [{"c": 1}, {"c": None}]}, "d": "x"}
    assert flattened(options) == {"a.b.0.c": 1, "a.b.1.c": None, "d": "x"}


def test_flattened_keeps_empty_containers():
    assert flattened({"a": {}, "b": [], "c": {"d": {}}}) == {"a": {}, "b": [], "c.d": {}}


def test_in_qdict_order_is_that_of_qemus_hash_table():
    # As QEMU 7.2 printed it.
    order = ["inject-error.0.state", "inject-error.0.immediately", "inject-error.0.once"]
    order += ["image", "driver", "inject-error.0.iotype", "inject-error.0.event"]
    order += ["inject-error.0.errno", "inject-error.1.event", "inject-error.0.sector"]
    assert list(in_qdict_order(dict.fromkeys(sorted(order, reverse=True)))) != sorted(order)
    mixed = dict.fromkeys(sorted(order, key=lambda name: (name.count("."), order.index(name))))
    assert list(in_qdict_order(mixed)) == order


def test_in_qdict_order_keeps_the_order_given_within_a_bucket():
    # These two have the same hash.
    names = ["inject-error.0.event", "inject-error.0.errno"]
    assert list(in_qdict_order(dict.fromkeys(names))) == names
    assert list(in_qdict_order(dict.fromkeys(names[::-1]))) == names[::-1]
