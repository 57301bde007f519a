"""``blkxact image snapshot``: made, applied and deleted by either tool, on the same images."""

from __future__ import annotations

import json
import re

import pytest
from cli_runs import assert_refused, blkxact
from image_tools import KIB, MIB, guest, image, image_json, new_image

pytestmark = pytest.mark.qemu

OPTIONS = ["cluster_size=4k", "cluster_size=512,refcount_bits=64", "compat=0.10,cluster_size=64k"]


def assert_pattern(path, pattern, offset=0, length=64 * KIB):
    guest(path, f"read -P {pattern} {offset} {length}")


def content(qemu_img, path, *words):
    out = path.with_suffix(".content")
    qemu_img("convert", "-O", "raw", *words, path, out)
    return out.read_bytes()


@pytest.mark.parametrize("options", OPTIONS)
def test_image_snapshot_of_a_random_life_is_that_of_a_model(image_dir, qemu_img, seeded, options):
    """Snapshots by both tools in turn: contents are as a model says, and the check is clean."""
    size = 512 * KIB
    path = new_image(image_dir / "disk", size, options=options)
    disk, snapshots = bytearray(size), {}
    for step in range(8):
        for _ in range(2):
            offset = seeded.randrange(size // 512) * 512
            length = min(seeded.randrange(1, 100) * 512, size - offset)
            pattern = seeded.randrange(256)
            guest(path, f"write -P {pattern} {offset} {length}")
            disk[offset : offset + length] = bytes([pattern]) * length
        verb = seeded.choice("ccad") if snapshots else "c"
        name = f"s{step}" if verb == "c" else seeded.choice(list(snapshots))
        if seeded.random() < 0.7:
            image("snapshot", f"-{verb}", name, path)
        else:
            qemu_img("snapshot", f"-{verb}", name, path)
        if verb == "c":
            snapshots[name] = bytes(disk)
        elif verb == "a":
            disk = bytearray(snapshots[name])
        else:
            del snapshots[name]
        qemu_img("check", path)
        image("check", path)
    assert content(qemu_img, path) == disk
    for name, expected in snapshots.items():
        assert content(qemu_img, path, "-l", name) == expected
        out = image_dir / "ours"
        image("convert", "-O", "raw", "-l", name, path, out)
        assert out.read_bytes() == expected


def test_image_snapshot_list_is_that_of_qemu_img(image_dir, qemu_img):
    path = new_image(image_dir / "disk", MIB)
    assert image("snapshot", path) == ""
    image("snapshot", "-c", "one", path)
    qemu_img("snapshot", "-c", "two", path)
    assert image("snapshot", "-l", path) == qemu_img("snapshot", "-l", path)
    told = json.loads(qemu_img("info", "--output=json", path))["snapshots"]
    assert image_json("snapshot", "-l", path) == told
    assert image_json("info", path)["snapshots"] == told
    assert re.search(r"^2 +two ", image("info", path), re.MULTILINE)


def test_image_snapshot_apply_brings_the_size_back(image_dir, qemu_img):
    path = new_image(image_dir / "disk", MIB, "write -P 1 0 1M")
    image("snapshot", "-c", "large", path)
    image("resize", "--shrink", path, "512k")
    image("snapshot", "-c", "small", path)
    image("snapshot", "-a", "large", path)
    assert image_json("info", path)["virtual-size"] == MIB
    assert_pattern(path, 1, length=MIB)
    qemu_img("snapshot", "-a", "small", path)
    image("snapshot", "-a", "1", path)
    assert_pattern(path, 1, length=MIB)
    qemu_img("check", path)


def test_image_snapshot_deleted_gives_all_its_clusters_back(image_dir, qemu_img):
    path = new_image(image_dir / "disk", MIB, "write -P 1 0 1M")
    image("snapshot", "-c", "one", path)
    guest(path, "write -P 2 0 1M")
    image("snapshot", "-d", "one", path)
    qemu_img("check", path)
    # What was freed is used again: the file does not grow.
    before = path.stat().st_size
    image("snapshot", "-c", "two", path)
    guest(path, "write -P 3 0 960k")
    assert path.stat().st_size <= before + 128 * KIB


def test_image_snapshot_of_compressed_clusters_counts_them(image_dir, qemu_img):
    source = new_image(image_dir / "disk", MIB, "write -P 1 0 300k")
    path = image_dir / "small"
    qemu_img("convert", "-c", "-O", "qcow2", source, path)
    image("snapshot", "-c", "one", path)
    qemu_img("check", path)
    guest(path, "write -P 2 0 300k")
    image("snapshot", "-a", "one", path)
    qemu_img("check", path)
    assert_pattern(path, 1, length=300 * KIB)
    image("snapshot", "-d", "one", path)
    qemu_img("check", path)


def test_image_snapshot_refuses_what_a_count_cannot_hold_and_changes_nothing(image_dir, qemu_img):
    path = new_image(image_dir / "disk", MIB, "write 0 100k", options="refcount_bits=1")
    before = content(qemu_img, path)
    line = assert_refused(blkxact("image", "snapshot", "-c", "one", path))
    assert line == "Could not create snapshot 'one': -22 (Invalid argument)"
    qemu_img("check", path)
    assert content(qemu_img, path) == before


@pytest.mark.parametrize(
    ("words", "refusal"),
    [
        (("-a", "no"), "Could not apply snapshot 'no': Failed to load snapshot: No such file or"),
        (("-d", "no"), "Could not delete snapshot 'no': snapshot not found"),
        (("-d", "1"), "Could not delete snapshot '1': snapshot not found"),
    ],
)
def test_image_snapshot_that_is_not_there_is_refused_as_by_qemu_img(image_dir, words, refusal):
    path = new_image(image_dir / "disk", MIB)
    image("snapshot", "-c", "one", path)
    before = path.read_bytes()
    assert assert_refused(blkxact("image", "snapshot", *words, path)).startswith(refusal)
    assert path.read_bytes() == before


def test_image_snapshot_is_not_applied_under_bitmaps(image_dir, qemu_img):
    path = new_image(image_dir / "disk", MIB)
    image("snapshot", "-c", "one", path)
    image("bitmap", "--add", path, "b0")
    line = assert_refused(blkxact("image", "snapshot", "-a", "one", path))
    assert line.endswith("Device has active dirty bitmaps")


def test_image_snapshot_of_raw_is_refused(image_dir):
    path = new_image(image_dir / "disk", MIB, fmt="raw")
    line = assert_refused(blkxact("image", "snapshot", "-f", "raw", "-c", "one", path))
    assert line == "Could not create snapshot 'one': -95 (Operation not supported)"
    assert image("snapshot", "-f", "raw", "-l", path) == ""
