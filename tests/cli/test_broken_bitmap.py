"""Bitmaps whose directory entry keeps an image from being opened can be removed."""

import pytest
from cli_runs import assert_refused, blkxact
from image_tools import MIB, image, image_json, new_image

ENTRY = b"\0\0\0\2\1\x10"
"""Flags, type and granularity (64 KiB) of a directory entry."""


def broken(image_dir, change):
    path = new_image(image_dir / "disk", MIB)
    for name in ("good", "broken"):
        image("bitmap", "--add", path, name)
    data = bytearray(path.read_bytes())
    at = data.rindex(b"broken") - 12  # 12: flags up to the name
    assert data[at : at + len(ENTRY)] == ENTRY
    change(data, at)
    path.write_bytes(data)
    assert_refused(blkxact("image", "bitmap", "--add", path, "new"))
    return path


def wrong_type(data, at):
    data[at + 4] = 9


def wrong_granularity(data, at):
    data[at + 5] = 60


def unknown_flag(data, at):
    data[at + 2] = 8


def misplaced_table(data, at):
    data[at - 5] = 1


def wrong_table(data, at):
    table = int.from_bytes(data[at - 12 : at - 4])
    data[table : table + 8] = b"\xff" * 8


def wrong_directory(data, at):
    data[at + 6 : at + 8] = b"\xff\xff"


ENTRIES = [wrong_type, wrong_granularity, unknown_flag, misplaced_table, wrong_table]


def names(path):
    specific = image_json("info", path)["format-specific"]["data"]
    return [bitmap["name"] for bitmap in specific.get("bitmaps", [])]


@pytest.mark.parametrize("change", ENTRIES)
def test_remove_takes_a_broken_bitmap_out_of_the_image(image_dir, change, qemu_img):
    path = broken(image_dir, change)
    image("bitmap", "--remove", path, "broken")
    assert names(path) == ["good"]
    blkxact("image", "check", "-r", "all", path)
    qemu_img("check", path)


@pytest.mark.parametrize("change", [*ENTRIES, wrong_directory])
def test_check_with_repair_takes_broken_bitmaps_out_of_the_image(image_dir, change, qemu_img):
    path = broken(image_dir, change)
    done = blkxact("image", "check", "-r", "all", path)
    assert done.status == 0, done
    assert "Removing invalid bitmap" in done.err
    assert names(path) == ([] if change is wrong_directory else ["good"])
    qemu_img("check", path)
