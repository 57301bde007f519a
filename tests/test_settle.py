"""Settling: whatever one party raises, the others are called."""

from __future__ import annotations

import pytest

from blkxact.runtime.settle import Settling


@pytest.mark.parametrize("position", range(4))
def test_settling_calls_all_whoever_raises(position: int) -> None:
    called: list[int] = []

    def party(number: int) -> None:
        called.append(number)
        if number == position:
            raise RuntimeError(f"bug {number}")

    def settle() -> None:
        with Settling("the end") as settling:
            for number in range(4):
                assert (settling.call(party, number) is None) == (number != position)

    with pytest.raises(ExceptionGroup, match="the end raised") as caught:
        settle()
    assert called == [0, 1, 2, 3]
    assert [str(bug) for bug in caught.value.exceptions] == [f"bug {position}"]


def test_settling_does_not_hide_what_is_being_raised() -> None:
    def bug() -> None:
        raise RuntimeError("bug")

    def settle() -> None:
        with Settling("the end") as settling:
            settling.call(bug)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        settle()


def test_settling_without_bugs_raises_nothing() -> None:
    with Settling("the end") as settling:
        assert settling.call(lambda: None) is None
