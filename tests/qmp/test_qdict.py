"""Options as QEMU keeps them: flat, and in the order of a hash table."""

from __future__ import annotations

from blkxact.qmp.qdict import flattened, in_qdict_order, member_order, ordered


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


def test_ordered_is_qemus_order_at_every_level():
    # As QEMU 7.2 printed it.
    value = {"data": {"b": [{"desc": 1, "class": 2}]}, "event": "X", "timestamp": {}}
    made = ordered(value)
    assert made == value
    assert list(made) == ["timestamp", "event", "data"]
    assert list(made["data"]["b"][0]) == ["class", "desc"]


def test_ordered_puts_the_last_of_a_bucket_first():
    names = ["inject-error.0.event", "inject-error.0.errno"]
    assert list(ordered(dict.fromkeys(names))) == names[::-1]


def test_ordered_twice_does_the_work_once():
    made = ordered({"b": {"a": 1}, "a": 2})
    assert ordered({"x": made})["x"] is made


def test_order_of_an_object_with_long_names_is_not_remembered():
    before = member_order.__globals__["_cached_member_order"].cache_info().currsize
    names = tuple(f"{'x' * 100}{number}" for number in range(50))
    assert sorted(member_order(names)) == sorted(names)
    assert member_order.__globals__["_cached_member_order"].cache_info().currsize == before
