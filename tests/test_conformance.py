"""``docs/conformance.md`` is made from what the runs of QEMU's iotests printed."""

from __future__ import annotations

from iotests.conformance import REASONS, page, read_results


def test_the_last_line_of_a_test_counts() -> None:
    results = read_results(["124 fail 3/13 cases: x", "124 pass 13/13 cases [9 s]", "noise"])
    assert results == {"124": ("pass", "13/13")}


def test_the_page_has_a_reason_for_each_test_that_does_not_pass() -> None:
    text = page(read_results(["056 pass 8/8 cases", "999 fail output differs"]), "abc", "a day")
    assert f"a day, revision abc: 1 of {2 + len(REASONS)} tests pass." in text
    assert "| 056 | pass | 8/8 |  |" in text
    assert "| 999 | fail |  | not looked into yet |" in text
    for name, reason in REASONS.items():
        assert f"| {name} | not run |  | {reason} |" in text
