"""The page of the kit's API is what the kit is, and says what every public name does."""

from __future__ import annotations

import inspect

import blkxact.kit
from blkxact.kit import Emulator

from .api_page import CLASSES, PAGE, page


def test_page_is_up_to_date():
    assert PAGE.read_text() == page(), "run: python -m tests.kit.api_page"


def test_page_has_all_that_the_package_exports_and_the_fixture_gives():
    assert {getattr(blkxact.kit, name) for name in blkxact.kit.__all__} <= set(CLASSES)
    text = PAGE.read_text()
    for name, _ in inspect.getmembers(Emulator):
        if not name.startswith("_") and name != "close":
            assert f"`{name}" in text, name
    assert "see above" not in text, "an attribute has no docstring"
