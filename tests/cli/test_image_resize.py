"""``blkxact image resize``: sizes, refusals and results as qemu-img's."""

from __future__ import annotations

import pytest
from cli_runs import assert_refused, blkxact
from image_tools import KIB, MIB, image, image_json, new_image

pytestmark = pytest.mark.qemu


@pytest.mark.parametrize("fmt", ["qcow2", "raw"])
@pytest.mark.parametrize(
    ("words", "size"),
    [
        (("3M",), 3 * MIB),
        (("+512k",), MIB + 512 * KIB),
        (("--shrink", "-512k"), 512 * KIB),
        (("--shrink", "256k"), 256 * KIB),
        (("--preallocation", "full", "2M"), 2 * MIB),
    ],
)
def test_image_resize_makes_what_qemu_img_makes(image_dir, qemu_img, fmt, words, size):
    ours = new_image(image_dir / "ours", MIB, "write -P 1 0 1M", fmt=fmt)
    theirs = new_image(image_dir / "theirs", MIB, "write -P 1 0 1M", fmt=fmt)
    *options, new = words
    assert image("resize", "-f", fmt, *options, ours, new) == "Image resized.\n"
    qemu_img("resize", "-f", fmt, *options, theirs, new)
    assert image_json("info", "-f", fmt, ours)["virtual-size"] == size
    # How preallocated zeroes look to the host depends on its file system.
    strict = () if "--preallocation" in words else ("-s",)
    qemu_img("compare", *strict, "-f", fmt, "-F", fmt, ours, theirs)
    if fmt == "qcow2":
        qemu_img("check", ours)


def test_image_resize_shows_nothing_of_a_longer_backing_file(image_dir, qemu_img):
    base = new_image(image_dir / "base", 2 * MIB, "write -P 1 0 2M")
    path = new_image(image_dir / "top", MIB, backing=base)
    image("resize", "-q", path, "2M")
    out = image_dir / "out"
    qemu_img("convert", "-O", "raw", path, out)
    assert out.read_bytes() == b"\1" * MIB + bytes(MIB)


@pytest.mark.parametrize(
    ("words", "size", "refusal"),
    [
        ((), "512k", "Use the --shrink option to perform a shrink operation"),
        ((), "-512k", "Use the --shrink option to perform a shrink operation"),
        ((), "0", "New image size must be positive"),
        ((), "-2M", "New image size must be positive"),
        (("--preallocation", "full"), "1M", "Preallocation can only be used for growing images"),
        (("--preallocation", "some"), "2M", "Invalid preallocation mode 'some'"),
        ((), "+1", "The new size must be a multiple of 512"),
        ((), "much", "Invalid size 'much'"),
    ],
)
def test_image_resize_that_cannot_be_changes_nothing(image_dir, words, size, refusal):
    path = new_image(image_dir / "disk", MIB, "write 0 64k")
    before = path.read_bytes()
    assert refusal in assert_refused(blkxact("image", "resize", *words, path, size))
    assert path.read_bytes() == before
