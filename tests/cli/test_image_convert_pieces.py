"""``blkxact image convert`` of disks that take several pieces, copied from file to file."""

from __future__ import annotations

import errno
import os

import pytest
from cli_runs import assert_refused, blkxact
from image_tools import KIB, MIB, image, image_json

from blkxact.image_tools import convert
from blkxact.storage import scanned_file

BLOCK = 4 * KIB


@pytest.fixture
def disk(image_dir, seeded):
    """A raw disk of some pieces with zeroes, data and holes; returns its name and its bytes."""
    size = 2 * convert.FILE_PIECE + 5 * KIB
    data = bytearray(size)
    path = image_dir / "disk"
    with path.open("wb") as file:
        file.truncate(size)
        for _ in range(120):
            at = seeded.randrange(size // 512) * 512
            part = seeded.choice([seeded.randbytes, bytes])(seeded.randrange(300 * KIB))
            part = part[: size - at]
            data[at : at + len(part)] = part
            file.seek(at)
            file.write(part)
    return path, bytes(data)


def padded(data):
    return data + bytes(-len(data) % 512)


@pytest.mark.parametrize(
    "words",
    [
        (),
        ("-W",),
        ("-m", "1"),
        ("-S", "12k"),
        ("-S", "0"),
        ("-C",),
        ("-r", "1G"),
        ("-t", "writethrough"),
        ("-O", "qcow2"),
        ("-O", "qcow2", "-W", "-o", "cluster_size=512"),
        ("-O", "qcow2", "-o", "extended_l2=on,cluster_size=128k"),
        ("-O", "qcow2", "-o", "preallocation=metadata"),
        ("-O", "qcow2", "-o", "preallocation=falloc"),
    ],
)
@pytest.mark.parametrize("source", ["raw", "qcow2"])
def test_image_convert_copies_what_takes_several_pieces(image_dir, disk, words, source):
    path, data = disk
    target = image_dir / "target"
    if source == "qcow2":
        image("convert", "-f", "raw", "-O", "qcow2", "-o", "cluster_size=4k", path, image_dir / "q")
        path = image_dir / "q"
    image("convert", "-f", source, *words, path, target)
    if "qcow2" not in words:
        assert target.read_bytes() == padded(data)
        return
    image("check", target)
    image("compare", "-f", "raw", "-F", "qcow2", disk[0], target)


def test_image_convert_leaves_zeroes_out_of_a_raw_target(image_dir, disk):
    path, data = disk
    target = image_dir / "target"
    image("convert", "-f", "raw", path, target)
    used = sum(any(data[at : at + BLOCK]) for at in range(0, len(data), BLOCK)) * BLOCK
    held = sum(entry["length"] for entry in image_json("map", "-f", "raw", target) if entry["data"])
    assert held <= used + 64 * KIB


def test_image_convert_leaves_whole_clusters_of_zeroes_out_of_a_qcow2_target(image_dir, disk):
    path, data = disk
    target = image_dir / "target"
    image("convert", "-f", "raw", "-O", "qcow2", "-o", "cluster_size=64k", path, target)
    cluster = 64 * KIB
    used = sum(any(data[at : at + cluster]) for at in range(0, len(data), cluster))
    assert image_json("check", target)["allocated-clusters"] == used


@pytest.mark.parametrize("words", [(), ("-W",)])
def test_image_convert_into_an_existing_image_zeroes_what_it_held(image_dir, disk, words):
    path, data = disk
    target = image_dir / "target"
    target.write_bytes(b"\7" * (len(padded(data)) + 512))
    image("convert", "-n", "-f", "raw", *words, path, target)
    assert target.read_bytes() == padded(data) + b"\7" * 512


def test_image_convert_joins_disks_between_pieces(image_dir, disk):
    path, data = disk
    target = image_dir / "target"
    image("convert", "-f", "raw", path, path, target)
    assert target.read_bytes() == padded(data) * 2


def test_image_convert_names_the_byte_that_cannot_be_written(image_dir, seeded):
    path, target = image_dir / "disk", image_dir / "target"
    path.write_bytes(seeded.randbytes(16 * MIB))
    target.write_bytes(bytes(16 * MIB))
    broken = (
        f"driver=raw,file.driver=blkdebug,file.image.filename={target},"
        "file.inject-error.0.event=pwritev,file.inject-error.0.sector=20490"
    )
    done = blkxact("image", "convert", "-n", "--target-image-opts", "-f", "raw", path, broken)
    assert assert_refused(done) == "error while writing at byte 10485760: Input/output error"


def test_image_convert_reads_what_cannot_be_looked_at(image_dir, disk, monkeypatch):
    def fail(*_args):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(scanned_file, "scan_zeroes", fail)
    path, data = disk
    image("convert", "-f", "raw", path, image_dir / "target")
    assert (image_dir / "target").read_bytes() == padded(data)
