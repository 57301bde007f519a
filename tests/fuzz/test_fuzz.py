"""What the fuzzer has found, again; and a short run of it with inputs made from a seed."""

from __future__ import annotations

import asyncio
import tracemalloc
from pathlib import Path

import pytest
from fuzz.recipe import build
from fuzz.seeds import seeds
from fuzz.targets import TARGETS, random_input

from blkxact.drivers.qcow2.layout import MAX_L1_BYTES
from fuzz import images

CORPUS = Path(__file__).parent / "corpus"
FOUND = sorted(path for path in CORPUS.rglob("*") if path.is_file())
RUNS = {"qcow2_bytes": 20, "backing_chain": 60, "qmp_json": 300, "nbd_handshake": 300}
MAX_ALLOCATED = 4 * MAX_L1_BYTES
"""Bytes that one small image may cost at the most, whatever its header claims."""


def check_harmless(target, data):
    """The targets assert what must hold for any input."""
    TARGETS[target](data)


@pytest.mark.parametrize("path", FOUND, ids=lambda path: f"{path.parent.name}-{path.name}")
def test_input_that_once_did_harm_does_none(path):
    check_harmless(path.parent.name, path.read_bytes())


@pytest.mark.parametrize("target", TARGETS)
def test_random_input_does_no_harm(target, seeded):
    for _ in range(RUNS.get(target, 40)):
        data = random_input(target, seeded)
        print(f"{target}: {data[:200].hex()}")
        check_harmless(target, data)


@pytest.mark.parametrize("seed", seeds(), ids=lambda seed: seed.name)
def test_seed_without_a_change_is_a_sound_image(seed):
    assert asyncio.run(images.exercise(seed.data))


@pytest.mark.parametrize(
    "path", [path for path in FOUND if path.parent.name.startswith("qcow2")], ids=lambda p: p.name
)
def test_image_that_claims_to_be_large_takes_bounded_memory(path):
    room = path.parent.name.removeprefix("qcow2_")
    image = build(path.read_bytes(), room)[1]
    tracemalloc.start()
    try:
        asyncio.run(images.exercise(image))
        assert tracemalloc.get_traced_memory()[1] < MAX_ALLOCATED
    finally:
        tracemalloc.stop()


def test_meter_ends_a_step_that_takes_too_much(monkeypatch):
    monkeypatch.setattr(images, "MAX_STEP_REQUESTS", 3)
    with pytest.raises(images.LimitError):
        asyncio.run(images.exercise(seeds()[0].data))
