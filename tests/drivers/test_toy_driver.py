"""The change at the end of docs/adding-a-driver.md is the whole of a new filter."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "adding-a-driver.md"

USE = """
import asyncio, json, random

from blkxact.block_layer import BlockLayer
from blkxact.runtime.clock import SystemClock
from blkxact.errors import QmpError
from blkxact.runtime.events import EventSink
from blkxact.qapi.blockdev import BlockdevOptions
from blkxact.qapi.introspect import schema
from blkxact.qapi.validation import validate
from blkxact.storage.os_file import OsStorage


class NotingClock(SystemClock):
    def __init__(self):
        super().__init__()
        self.slept = []

    async def sleep(self, seconds):
        self.slept.append(seconds)


async def main():
    clock, storage = NotingClock(), OsStorage()
    layer = BlockLayer(storage, clock, EventSink(clock), rng=random.Random(1))
    below = {"driver": "null-co", "node-name": "below", "read-zeroes": True}
    told = {}
    for name, more in (("given", {"delay-ms": 5}), ("default", {}), ("wrong", {"delay-ms": "x"})):
        options = {"driver": "delay", "node-name": name, **more, "file": "below"}
        if name == "given":
            options["file"] = below
        try:
            await layer.add_node(validate(BlockdevOptions, options))
        except QmpError as error:
            told[name] = error.desc
        else:
            assert bytes(await layer.find_node(name).pread(0, 512)) == bytes(512)
    told["slept"] = clock.slept
    told["file"] = layer.find_node("given").filename
    node = await layer.blockdev.open_image(
        'json:{"driver":"delay","delay-ms":"7","file":{"driver":"null-co"}}', {"node-name": "name"}
    )
    told["named"] = node.driver.delay_ms
    told["schema"] = "delay-ms" in json.dumps(schema({"blockdev-add": BlockdevOptions}))
    await layer.shutdown()
    storage.close()
    print(json.dumps(told))


asyncio.run(main())
"""


def changed_files(diff: str) -> list[str]:
    return re.findall(r"^\+\+\+ b/(.*)$", diff, re.MULTILINE)


@pytest.fixture
def diff() -> str:
    found = re.search(r"^```diff\n(.*?)^```$", PAGE.read_text(), re.DOTALL | re.MULTILINE)
    assert found is not None
    return found[1]


def test_a_new_filter_changes_three_files(diff: str) -> None:
    assert changed_files(diff) == [
        "src/blkxact/drivers/__init__.py",
        "src/blkxact/drivers/delay.py",
        "src/blkxact/qapi/blockdev.py",
    ]


def test_the_filter_of_the_page_works(diff: str, tmp_path: Path) -> None:
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "src", tmp_path / "src", ignore=ignored)
    # ``-C1``: other lines near by may change without making the page wrong.
    apply = ["git", "apply", "-C1", "-"]
    subprocess.run(apply, input=diff, text=True, cwd=tmp_path, check=True)
    done = subprocess.run(
        [sys.executable, "-c", USE],
        env={"PYTHONPATH": str(tmp_path / "src")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    told: dict[str, Any] = json.loads(done.stdout)
    assert told == {
        "wrong": "Parameter 'delay-ms' expects uint64",
        "slept": [0.005, 0.01],
        "file": 'json:{"driver": "delay", "file": {"read-zeroes": true, "driver": "null-co"}}',
        "named": 7,
        "schema": True,
    }
