"""``blkxact image check``: what it finds and repairs, beside qemu-img on the same damage."""

from __future__ import annotations

import json
import shutil
import subprocess

import pytest
from cli_runs import assert_refused, blkxact
from image_tools import MIB, Tables, image, image_json, new_image

pytestmark = pytest.mark.qemu

WRITES = ("write -P 1 0 100k", "write -z 256k 64k")


def leak(tables):
    tables.write((61 << tables.cluster_bits) - 1, b"x")
    tables.set_count(60, 1)


def low_count(tables):
    tables.set_count(tables.l2[0] >> tables.cluster_bits, 0)


def too_many_references(tables):
    tables.set_count(tables.l2[0] >> tables.cluster_bits, 5)


def missing_flag(tables):
    tables.set_entry(tables.l2[0], tables.entry(tables.l2[0]) & ~(1 << 63))


def misaligned_data(tables):
    tables.set_entry(tables.l2[0], tables.entry(tables.l2[0]) + 512)


def misplaced_zeroes(tables):
    place = tables.l2[0] + 8 * (256 * 1024 >> tables.cluster_bits)
    tables.set_entry(place, tables.entry(tables.l2[0]) + 512 | 1)


def beyond_end(tables):
    tables.set_entry(tables.l2[0], (1 << 63) | (1 << 40))


def reserved_bits(tables):
    tables.set_entry(tables.l2[0], tables.entry(tables.l2[0]) | 1 << 58)


def lost_refcount_block(tables):
    tables.set_entry(tables.refcount_table, 0)


def shared_refcount_block(tables):
    tables.set_entry(tables.refcount_table, tables.l1)


DAMAGES = [
    pytest.param(leak, id="leak"),
    pytest.param(low_count, id="low count"),
    pytest.param(too_many_references, id="high count"),
    pytest.param(missing_flag, id="missing flag"),
    pytest.param(misaligned_data, id="misaligned data"),
    pytest.param(misplaced_zeroes, id="misplaced zeroes"),
    pytest.param(beyond_end, id="beyond end"),
    pytest.param(reserved_bits, id="reserved bits"),
    pytest.param(lost_refcount_block, id="lost refcount block"),
    pytest.param(shared_refcount_block, id="shared refcount block"),
]


def both_allocated_and_zero(tables):
    tables.set_entry(tables.l2[0] + 8, tables.entry(tables.l2[0] + 8) | 1 << 32)


def allocated_without_place(tables):
    tables.set_entry(tables.l2[0] + 16 * 10 + 8, 1)


def bitmap_of_compressed(tables):
    tables.set_entry(tables.l2[0] + 16 * 8 + 8, 1 << 32)


def misaligned_subclusters(tables):
    tables.set_entry(tables.l2[0], tables.entry(tables.l2[0]) + 512)


def misaligned_without_data(tables):
    place = tables.l2[0] + 16 * 4
    tables.set_entry(place, tables.entry(place) + 512)


SUBCLUSTER_WRITES = (*WRITES, "write -P 3 258k 2k", "write -z 258k 2k", "write -c -P 4 512k 64k")
SUBCLUSTER_DAMAGES = [
    pytest.param(damage, id=damage.__name__.replace("_", " "))
    for damage in (
        both_allocated_and_zero,
        allocated_without_place,
        bitmap_of_compressed,
        misaligned_subclusters,
        misaligned_without_data,
        missing_flag,
    )
]


def both(image_dir, source, *words):
    """Check copies of an image with both tools: ``((status, result or None), ...)``."""
    results = []
    for tool in ("theirs", "ours"):
        path = image_dir / f"{tool}.qcow2"
        shutil.copy(source, path)
        command = ("check", "-f", "qcow2", "--output=json", *words, str(path))
        if tool == "theirs":
            done = subprocess.run(
                ["qemu-img", *command], capture_output=True, text=True, check=False
            )
            status, out = done.returncode, done.stdout
        else:
            done = blkxact("image", *command)
            status, out = done.status, done.out
        found = json.loads(out) if out else None
        if found is not None:
            # New refcount structures may lie elsewhere.
            found = {k: v for k, v in found.items() if k not in ("filename", "image-end-offset")}
        results.append((status, found))
    return results


@pytest.mark.parametrize("damage", DAMAGES)
def test_image_check_finds_what_qemu_img_finds(image_dir, damage):
    # Version 2 here, version 3 where it is repaired.
    path = new_image(image_dir / "disk.qcow2", MIB, *WRITES, options="compat=0.10")
    damage(Tables(path))
    theirs, ours = both(image_dir, path)
    assert ours == theirs
    assert ours[0] in (1, 2, 3)


@pytest.mark.parametrize("damage", DAMAGES)
def test_image_check_repairs_what_qemu_img_repairs(image_dir, qemu_img, damage):
    path = new_image(image_dir / "disk.qcow2", MIB, *WRITES, options="cluster_size=4k")
    damage(Tables(path))
    theirs, ours = both(image_dir, path, "-r", "all")
    assert ours == theirs
    left, fixed = image_dir / "theirs.qcow2", image_dir / "ours.qcow2"
    assert image_json("check", fixed, status=ours[0])["check-errors"] == 0
    qemu_img("check", fixed, status=ours[0])
    if ours[0] == 0:
        qemu_img("compare", left, fixed)


@pytest.mark.parametrize("words", [(), ("-r", "leaks"), ("-r", "all")])
@pytest.mark.parametrize("damage", SUBCLUSTER_DAMAGES)
def test_image_check_of_subclusters_finds_and_repairs_what_qemu_img_does(image_dir, damage, words):
    path = new_image(image_dir / "disk.qcow2", MIB, *SUBCLUSTER_WRITES, options="extended_l2=on")
    damage(Tables(path))
    theirs, ours = both(image_dir, path, *words)
    assert ours == theirs


def test_image_check_of_leaks_alone_is_status_3_and_repaired_by_leaks(image_dir, qemu_img):
    path = new_image(image_dir / "disk.qcow2", MIB, *WRITES)
    leak(Tables(path))
    assert image_json("check", path, status=3)["leaks"] == 1
    assert image_json("check", "-r", "leaks", path)["leaks-fixed"] == 1
    assert "leaks" not in image_json("check", path)
    qemu_img("check", path)


def test_image_check_does_not_repair_leaks_where_counts_are_lost(image_dir):
    path = new_image(image_dir / "disk.qcow2", MIB, *WRITES)
    low_count(Tables(path))
    before = path.read_bytes()
    done = blkxact("image", "check", "-r", "leaks", path)
    assert done.status == 1
    assert path.read_bytes() == before


def test_image_check_counts_what_snapshots_and_bitmaps_refer_to(image_dir, qemu_img):
    path = new_image(image_dir / "disk.qcow2", MIB, *WRITES)
    qemu_img("snapshot", "-c", "one", path)
    qemu_img("bitmap", "--add", path, "b0")
    ours, theirs = image_json("check", path), json.loads(qemu_img("check", "--output=json", path))
    assert ours == theirs


def test_image_check_repair_keeps_snapshots_of_an_image_with_bitmaps(image_dir, qemu_img):
    """qemu-img 7.2 loses them: it writes the header before it has read the snapshot table."""
    path = new_image(image_dir / "disk.qcow2", MIB, *WRITES)
    qemu_img("snapshot", "-c", "one", path)
    qemu_img("bitmap", "--add", path, "b0")
    leak(Tables(path))
    image("check", "-r", "all", path)
    assert "one" in qemu_img("snapshot", "-l", path)
    qemu_img("check", path)


def test_image_check_for_people_says_what_qemu_img_says(image_dir, qemu_img):
    path = new_image(image_dir / "disk.qcow2", MIB, *WRITES)
    assert image("check", path) == qemu_img("check", path)
    low_count(Tables(path))
    assert image("check", path, status=2) == qemu_img("check", path, status=2)
    assert image("check", "-q", path, status=2) == ""


@pytest.mark.parametrize(("words", "left"), [((), 1 << 63), (("-r", "all"), 0)])
def test_image_check_that_repairs_clears_features_it_does_not_keep_up(image_dir, words, left):
    path = new_image(image_dir / "disk", MIB)
    data = bytearray(path.read_bytes())
    data[88] |= 0x80
    path.write_bytes(data)
    image("check", *words, path)
    assert int.from_bytes(path.read_bytes()[88:96]) == left


def test_image_check_of_raw_is_status_63(image_dir):
    path = new_image(image_dir / "disk.raw", MIB, fmt="raw")
    assert "does not support checks" in assert_refused(
        blkxact("image", "check", "-f", "raw", path), status=63
    )


def test_image_check_of_a_missing_image_is_status_1(image_dir):
    line = assert_refused(blkxact("image", "check", image_dir / "none"))
    assert "No such file or directory" in line


def test_image_check_needs_no_backing_file(image_dir, qemu_img):
    base = new_image(image_dir / "base", MIB)
    path = new_image(image_dir / "top", MIB, *WRITES, backing=base)
    base.unlink()
    assert "No errors" in image("check", path)


def test_image_check_of_an_image_in_use_is_refused_unless_forced(image_dir):
    path = new_image(image_dir / "disk.qcow2", MIB, *WRITES)
    with subprocess.Popen(
        ["qemu-io", "-f", "qcow2", str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as writer:
        assert writer.stdin is not None
        assert writer.stdout is not None
        writer.stdin.write(b"write 0 4k\n")
        writer.stdin.flush()
        while b"wrote" not in writer.stdout.readline():
            pass
        line = assert_refused(blkxact("image", "check", path))
        assert 'Failed to get shared "write" lock' in line
        assert blkxact("image", "check", "-U", path).status in (0, 2, 3)
        assert 'Failed to get "write" lock' in assert_refused(
            blkxact("image", "check", "-r", "all", path)
        )
        writer.stdin.close()
        writer.stdout.read()
