"""Names of bitmaps, snapshots and files whose bytes are not UTF-8."""

from __future__ import annotations

import json
import os
import subprocess

import pytest
from cli_runs import blkxact
from image_tools import image, image_json, new_image

BITMAP = os.fsdecode(b"b\xfftail")
SNAPSHOT = os.fsdecode(b"s\xe9jour")


@pytest.fixture
def disk(image_dir):
    """An image with such names, under such a name."""
    path = new_image(image_dir / os.fsdecode(b"f\xff"), "1M")
    image("snapshot", "-c", SNAPSHOT, path)
    image("bitmap", "--add", path, BITMAP)
    return path


def bitmap_names(path):
    specific = image_json("info", path)["format-specific"]
    return [bitmap["name"] for bitmap in specific["data"]["bitmaps"]]


def test_bitmap_whose_name_is_not_utf8_is_added_copied_and_removed(image_dir, disk):
    assert b"b\xfftail" in disk.read_bytes()
    copy = image_dir / "copy"
    image("convert", "-O", "qcow2", "--bitmaps", disk, copy)
    assert b"b\xfftail" in copy.read_bytes()
    image("bitmap", "--clear", "--disable", copy, BITMAP)
    image("bitmap", "--remove", copy, BITMAP)
    assert "bitmaps" not in image_json("info", copy)["format-specific"]["data"]


def test_bitmap_name_that_is_not_utf8_is_as_long_as_its_bytes(disk):
    image("bitmap", "--add", disk, os.fsdecode(b"\xff" * 1023))
    done = blkxact("image", "bitmap", "--add", disk, os.fsdecode(b"\xff" * 1024))
    assert done.status == 1
    assert "Name length exceeds maximum (1023 characters)" in done.err


@pytest.mark.parametrize("words", [["info"], ["check"], ["snapshot", "-l"], ["map"]])
def test_json_of_image_verbs_has_the_replacement_character_for_other_bytes(disk, words):
    text = image(*words, "--output", "json", disk)
    assert "\\udc" not in text
    repr(json.loads(text)).encode()
    assert ("\\ufffd" in text) == (words != ["map"])


@pytest.mark.parametrize("verb", ["show", "verify"])
def test_json_of_chain_verbs_has_the_replacement_character_for_other_bytes(disk, verb):
    done = blkxact("chain", verb, "--output", "json", disk)
    assert "\\udc" not in done.out
    assert "\\ufffd" in done.out
    json.loads(done.out)


@pytest.mark.qemu
def test_names_that_are_not_utf8_are_reported_like_qemu_img_does(disk):
    words = ["qemu-img", "info", "--output=json", str(disk)]
    theirs = json.loads(subprocess.run(words, check=True, capture_output=True).stdout)
    ours = image_json("info", disk)
    assert ours["filename"] == theirs["filename"]
    assert ours["snapshots"][0]["name"] == theirs["snapshots"][0]["name"]
    (bitmap,) = theirs["format-specific"]["data"]["bitmaps"]
    assert bitmap_names(disk) == [bitmap["name"]]
