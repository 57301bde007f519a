"""``blkxact image bitmap``: what QEMU sees of it, and that a failing command changes nothing."""

from __future__ import annotations

import json

import pytest
from cli_runs import assert_refused, blkxact
from image_tools import MIB, guest, image, image_json, new_image

pytestmark = pytest.mark.qemu


def bitmaps(qemu_img, path):
    info = json.loads(qemu_img("info", "--output=json", path))
    found = info["format-specific"]["data"].get("bitmaps", [])
    return {b["name"]: (b["granularity"], tuple(b["flags"])) for b in found}


def dirty(path, name):
    """Return the dirty bytes of a bitmap as the chain shows them."""
    layers = json.loads(blkxact("chain", "show", "--output", "json", path).out)
    found = {b["name"]: b["count"] for b in layers[0]["dirty-bitmaps"]}
    return found[name]


def test_image_bitmap_steps_are_those_of_qemu_img(image_dir, qemu_img):
    path = new_image(image_dir / "disk", 4 * MIB)
    other = new_image(image_dir / "other", 4 * MIB)
    image("bitmap", "--add", "-g", "128k", path, "b0")
    image("bitmap", "--add", "--disable", path, "b1")
    qemu_img("bitmap", "--add", other, "c")
    assert bitmaps(qemu_img, path) == {"b0": (128 << 10, ("auto",)), "b1": (64 << 10, ())}
    guest(path, "write 1M 64k")
    guest(other, "write 3M 64k")
    image("bitmap", "--merge", "c", "-b", other, "-F", "qcow2", path, "b0")
    assert (dirty(path, "b0"), dirty(path, "b1")) == (2 * (128 << 10), 0)
    image("bitmap", "--merge", "b0", "--enable", path, "b1")
    assert dirty(path, "b1") == 4 * (64 << 10)
    image("bitmap", "--clear", path, "b0")
    assert dirty(path, "b0") == 0
    image("bitmap", "--remove", path, "b0")
    assert bitmaps(qemu_img, path) == {"b1": (64 << 10, ("auto",))}
    qemu_img("check", path)


def test_image_bitmap_may_be_removed_and_added_at_once(image_dir, qemu_img):
    path = new_image(image_dir / "disk", 4 * MIB)
    image("bitmap", "--add", path, "b0")
    guest(path, "write 1M 64k")
    image("bitmap", "--remove", "--add", "-g", "4k", path, "b0")
    assert bitmaps(qemu_img, path) == {"b0": (4096, ("auto",))}
    assert dirty(path, "b0") == 0
    qemu_img("check", path)


def test_image_bitmap_with_a_failing_step_does_none(image_dir, qemu_img):
    path = new_image(image_dir / "disk", 4 * MIB)
    image("bitmap", "--add", path, "b0")
    guest(path, "write 1M 64k")
    words = ("--disable", "--clear", "--remove", "--add", "--merge", "none", path, "b0")
    line = assert_refused(blkxact("image", "bitmap", *words))
    assert line == "Operation merge on bitmap b0 failed: Dirty bitmap 'none' not found"
    assert bitmaps(qemu_img, path) == {"b0": (64 << 10, ("auto",))}
    assert dirty(path, "b0") == 64 << 10
    qemu_img("check", path)


@pytest.mark.parametrize(
    ("words", "refusal"),
    [
        ((), "Need at least one of --add, --remove, --clear, --enable, --disable, or --merge"),
        (("--clear", "-g", "4k"), "granularity only supported with --add"),
        (("--add", "-F", "raw"), "-F only supported with -b"),
        (("--add", "-b", "x"), "Merge bitmap source file only supported with --merge"),
        (("--add",), "Operation add on bitmap b0 failed: Bitmap already exists: b0"),
        (("--add", "-g", "1000"), "Granularity must be power of 2 and at least 512"),
    ],
)
def test_image_bitmap_that_cannot_be_is_refused_as_by_qemu_img(image_dir, qemu_img, words, refusal):
    path = new_image(image_dir / "disk", 4 * MIB)
    qemu_img("bitmap", "--add", path, "b0")
    assert refusal in assert_refused(blkxact("image", "bitmap", *words, path, "b0"))
    assert list(bitmaps(qemu_img, path)) == ["b0"]


def test_image_bitmap_of_raw_is_refused(image_dir):
    path = new_image(image_dir / "disk", MIB, fmt="raw")
    line = assert_refused(blkxact("image", "bitmap", "--add", "-f", "raw", path, "b0"))
    assert "Can't store persistent bitmaps" in line


def test_image_bitmap_left_in_use_can_be_removed_only(image_dir, qemu_img):
    path = new_image(image_dir / "disk", MIB)
    image("bitmap", "--add", path, "b0")
    data = bytearray(path.read_bytes())
    flags = data.index(b"\0\0\0\2\1\x10")  # flags, type and granularity of its directory entry
    data[flags + 3] |= 1
    path.write_bytes(data)
    assert "inconsistent" in assert_refused(blkxact("image", "bitmap", "--clear", path, "b0"))
    image("bitmap", "--remove", path, "b0")
    assert "bitmaps" not in image_json("info", path)["format-specific"]["data"]
    qemu_img("check", path)
