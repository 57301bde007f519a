"""``Record``: constructors from annotations, as those of dataclasses; nothing is compiled."""

from __future__ import annotations

import pytest

from blkxact.runtime.record import Record, Value, made


class Point(Record):
    x: int
    y: int = 2
    tags: list[str] = made(factory=list)


def test_attributes_are_given_by_place_and_by_name():
    point = Point(1, tags=["a"])
    assert (point.x, point.y, point.tags) == (1, 2, ["a"])
    assert repr(point) == "Point(x=1, y=2, tags=['a'])"


def test_each_object_has_a_default_of_its_own():
    one, other = Point(1), Point(1)
    one.tags.append("a")
    assert other.tags == []


def test_changed_leaves_the_first_as_it_was():
    one = Point(1)
    other = one.changed(x=5)
    assert (one.x, other.x, other.y) == (1, 5, 2)


@pytest.mark.parametrize(
    ("values", "named"), [((1, 2, [], 4), {}), ((1,), {"x": 1}), ((1,), {"z": 1})]
)
def test_what_is_not_taken_is_refused(values, named):
    with pytest.raises(TypeError):
        Point(*values, **named)


def test_what_has_no_default_must_be_given():
    with pytest.raises(AttributeError):
        Point(y=1)


def test_values_are_equal_if_their_attributes_are():
    class Pair(Value):
        one: int
        other: int = 2

    assert Pair(1) == Pair(1, 2)
    assert Pair(1) != Pair(2)
    assert Point(1) != Point(1)
