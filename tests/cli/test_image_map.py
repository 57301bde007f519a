"""``blkxact image map``: the same as qemu-img's, by people and by programs."""

from __future__ import annotations

import json

import pytest
from cli_runs import assert_refused, blkxact
from image_tools import KIB, MIB, Tables, image, image_json, new_image, random_writes

pytestmark = pytest.mark.qemu

OPTIONS = ["cluster_size=512", "cluster_size=64k", "compat=0.10,cluster_size=4k", "extended_l2=on"]


def assert_same_map(qemu_img, path, *words):
    theirs = qemu_img("map", "--output=json", *words, path)
    assert json.loads(image("map", "--output", "json", *words, path)) == json.loads(theirs)
    assert image("map", *words, path) == qemu_img("map", *words, path)


@pytest.mark.parametrize("options", OPTIONS)
def test_image_map_of_a_chain_is_that_of_qemu_img(image_dir, qemu_img, seeded, options):
    base = new_image(image_dir / "base", 2 * MIB, *random_writes(seeded, 2 * MIB), options=options)
    top = new_image(
        image_dir / "top", 3 * MIB, *random_writes(seeded, 3 * MIB), options=options, backing=base
    )
    assert_same_map(qemu_img, top)


def test_image_map_of_raw_is_that_of_qemu_img(image_dir, qemu_img):
    path = image_dir / "disk.raw"
    path.write_bytes(b"x" * 8192)
    with path.open("r+b") as file:
        file.truncate(MIB)
    assert_same_map(qemu_img, path, "-f", "raw")


def test_image_map_of_a_part_is_that_of_qemu_img(image_dir, qemu_img):
    path = new_image(image_dir / "disk", MIB, "write 64k 200k", "write -z 512k 64k")
    assert_same_map(qemu_img, path, "-s", "100k", "-l", "500k")
    for words in (("-s", "1M"), ("-s", "9M", "-l", "1k"), ("-l", "0")):
        assert_same_map(qemu_img, path, *words)


@pytest.mark.parametrize("extended", ["off", "on"])
def test_image_map_of_preallocated_clusters_is_that_of_qemu_img(image_dir, qemu_img, extended):
    options = f"preallocation=metadata,extended_l2={extended}"
    assert_same_map(qemu_img, new_image(image_dir / "disk", MIB, options=options))


def test_image_map_of_subclusters_is_that_of_qemu_img(image_dir, qemu_img, seeded):
    options = "extended_l2=on,cluster_size=16k"
    base = new_image(image_dir / "base", MIB, *random_writes(seeded, MIB), options=options)
    top = new_image(
        image_dir / "top", 2 * MIB, *random_writes(seeded, 2 * MIB, 30), options=options,
        backing=base,
    )  # fmt: skip
    for path in (base, top):
        assert_same_map(qemu_img, path)


def test_image_map_for_people_refuses_compressed_clusters(image_dir, qemu_img):
    source = new_image(image_dir / "disk", MIB, "write -P 1 0 64k")
    path = image_dir / "small"
    qemu_img("convert", "-c", "-O", "qcow2", source, path)
    done = blkxact("image", "map", path)
    assert "compressed clusters" in done.err
    assert done.status == 1
    assert image_json("map", path) == json.loads(qemu_img("map", "--output=json", path))


def test_image_map_of_a_missing_image_is_one_line(image_dir):
    assert "No such file" in assert_refused(blkxact("image", "map", image_dir / "none"))


def test_image_map_does_not_mind_damage_below_what_an_upper_image_holds(image_dir):
    base = new_image(image_dir / "base", MIB, "write -P 1 0 1M")
    top = new_image(image_dir / "top", MIB, "write -P 2 320k 64k", backing=base)
    tables = Tables(base)
    tables.set_entry(tables.l2[0] + 8 * 5, (1 << 63) | 0x50200)  # not at the start of a cluster
    found = image_json("map", top)
    assert [(entry["start"], entry["length"], entry["depth"]) for entry in found] == [
        (0, 320 * KIB, 1),
        (320 * KIB, 64 * KIB, 0),
        (384 * KIB, 640 * KIB, 1),
    ]


def test_zeroes_of_a_full_preallocation_are_data(image_dir):
    """A mirror looks at the map to see whether its target has to be zeroed."""
    path = new_image(image_dir / "full", MIB, fmt="raw", options="preallocation=full")
    assert [one["data"] for one in image_json("map", "-f", "raw", path)] == [True]
