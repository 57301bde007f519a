"""The examples of docs/kit.md run, all of them, as a reader would run them."""

from __future__ import annotations

import re
from pathlib import Path

pytest_plugins = "pytester"

PAGE = Path(__file__).parents[2] / "docs" / "kit.md"
EXAMPLE = re.compile(r"```python\n(.*?)```", re.DOTALL)


TEST = re.compile(r"(?:range\((\d+)\)\)\n(?:@.*\n)*)?(?:async )?def test_", re.MULTILINE)


def count_tests(example):
    """Return how many tests an example has, those of a parametrized one counted singly."""
    return sum(int(found[1] or 1) for found in TEST.finditer(example))


def test_every_example_of_the_page_passes(pytester):
    examples = EXAMPLE.findall(PAGE.read_text())
    tests = sum(map(count_tests, examples))
    assert tests >= len(examples) > 1
    pytester.makepyfile(**{f"test_{number}": one for number, one in enumerate(examples)})
    result = pytester.runpytest_subprocess("-p", "no:cacheprovider", "--strict-markers")
    result.assert_outcomes(passed=tests)
