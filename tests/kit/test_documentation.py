"""The examples of docs/kit.md run, all of them, as a reader would run them."""

from __future__ import annotations

import re
from pathlib import Path

pytest_plugins = "pytester"

PAGE = Path(__file__).parents[2] / "docs" / "kit.md"
EXAMPLE = re.compile(r"```python\n(.*?)```", re.DOTALL)


def test_every_example_of_the_page_passes(pytester):
    examples = EXAMPLE.findall(PAGE.read_text())
    tests = sum(len(re.findall(r"^(?:async )?def test_", one, re.MULTILINE)) for one in examples)
    assert tests >= len(examples) > 1
    pytester.makepyfile(**{f"test_{number}": one for number, one in enumerate(examples)})
    result = pytester.runpytest_subprocess("-p", "no:cacheprovider", "--strict-markers")
    result.assert_outcomes(passed=tests)
