"""``blkxact image rebase``: another backing file, and the disk reads the same."""

from __future__ import annotations

import pytest
from cli_runs import assert_refused, blkxact
from image_tools import KIB, MIB, image, image_json, new_image, random_writes

from blkxact.image_tools.rebase import differences

SIZES = (512 * KIB, MIB, 2 * MIB)


@pytest.mark.qemu
@pytest.mark.parametrize("target", ["prefix", "other", "none"])
def test_image_rebase_keeps_what_the_disk_reads(image_dir, qemu_img, seeded, target):
    def make(name, backing=None):
        size = seeded.choice(SIZES)
        cluster = f"cluster_size={seeded.choice(['512', '4k', '64k'])}"
        return new_image(
            image_dir / name, size, *random_writes(seeded, size), options=cluster, backing=backing
        )

    prefix = make("prefix")
    make("other")
    top = make("top", make("middle", prefix))
    qemu_img("convert", "-O", "raw", top, image_dir / "content")
    name = {"prefix": prefix, "other": "other", "none": ""}[target]
    image("rebase", "-b", name, *(("-F", "qcow2") if name else ()), top)
    qemu_img("compare", "-F", "raw", top, image_dir / "content")
    qemu_img("check", top)
    assert image_json("info", top).get("backing-filename", "") == str(name)


@pytest.mark.qemu
def test_image_rebase_copies_only_what_differs(image_dir, qemu_img):
    base = new_image(image_dir / "base", 4 * MIB, "write -P 1 0 4M")
    other = new_image(image_dir / "other", 4 * MIB, "write -P 1 0 4M", "write -P 2 1M 64k")
    top = new_image(image_dir / "top", 4 * MIB, backing=base)
    image("rebase", "-b", other, "-F", "qcow2", top)
    held = [entry for entry in image_json("map", top) if entry["depth"] == 0]
    assert [(entry["start"], entry["length"]) for entry in held] == [(MIB, 64 * KIB)]


@pytest.mark.qemu
def test_image_rebase_unsafe_only_writes_the_name(image_dir):
    base = new_image(image_dir / "base", MIB, "write -P 1 0 64k")
    top = new_image(image_dir / "top", MIB, backing=base)
    base.rename(image_dir / "moved")
    image("rebase", "-u", "-b", "moved", "-F", "qcow2", top)
    assert image_json("info", top)["full-backing-filename"] == str(image_dir / "moved")
    assert image_json("map", top)[0]["depth"] == 1


@pytest.mark.qemu
@pytest.mark.parametrize(
    ("words", "refusal"),
    [
        ((), "Must specify backing file (-b) or use unsafe mode (-u)"),
        (("-b", "none", "-F", "qcow2"), "Could not open new backing file 'none': "),
        (("-b", "base", "-F", "vmdk"), "Invalid format name: 'vmdk'"),
        (("-u", "-b", "base"), "Could not change the backing file to 'base': backing format must"),
        (("-u", "-b", "x" * 1100, "-F", "raw"), "Backing file name too long"),
        (("-b", "top", "-F", "qcow2"), "lock"),
    ],
)
def test_image_rebase_that_cannot_be_changes_nothing(image_dir, words, refusal):
    base = new_image(image_dir / "base", MIB, "write -P 1 0 64k")
    top = new_image(image_dir / "top", MIB, backing=base)
    before = top.read_bytes()
    assert refusal in assert_refused(blkxact("image", "rebase", *words, top))
    assert top.read_bytes() == before


@pytest.mark.parametrize(
    ("one", "other", "runs"),
    [
        (b"", b"", []),
        (bytes(9000), bytes(9000), []),
        (b"x" + bytes(8999), bytes(9000), [(0, 4096)]),
        (bytes(8999) + b"x", bytes(9000), [(8192, 9000)]),
        (b"x" * 9000, bytes(9000), [(0, 9000)]),
    ],
)
def test_differences_are_told_in_blocks(one, other, runs):
    assert differences(one, other) == runs
