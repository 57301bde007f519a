"""``blkxact image compare`` of disks that are compared in several batches, file beside file."""

from __future__ import annotations

import errno
import os

import pytest
from cli_runs import blkxact
from image_tools import KIB, MIB, image, new_image

from blkxact.image_tools import side_by_side
from blkxact.storage import scanned_file

SIZE = 3 * side_by_side.BATCH + 64 * KIB


@pytest.fixture
def data(seeded):
    """A disk with data, zeroes, and a hole in most places."""
    found = bytearray(SIZE)
    for _ in range(40):
        at = seeded.randrange(SIZE // 512) * 512
        part = seeded.choice([seeded.randbytes, bytes])(seeded.randrange(600 * KIB))
        found[at : at + len(part)] = part[: SIZE - at]
    return found


@pytest.fixture
def one(image_dir, data):
    """The disk as a qcow2 image."""
    (image_dir / "raw").write_bytes(data)
    image("convert", "-f", "raw", "-O", "qcow2", image_dir / "raw", image_dir / "one")
    return image_dir / "one"


def compare(one, other, *words):
    done = blkxact("image", "compare", *words, "-F", "raw", one, other)
    return done.status, (done.out + done.err).strip()


def test_image_compare_finds_equal_disks_equal(image_dir, data, one):
    (image_dir / "two").write_bytes(data)
    assert compare(one, image_dir / "two") == (0, "Images are identical.")
    with (image_dir / "sparse").open("wb") as file:
        file.truncate(SIZE)
        for at in range(0, SIZE, 4096):
            if any(data[at : at + 4096]):
                file.seek(at)
                file.write(data[at : at + 4096])
    assert compare(one, image_dir / "sparse") == (0, "Images are identical.")


@pytest.mark.parametrize("count", [1, 3])
def test_image_compare_names_the_first_sector_that_differs(image_dir, data, one, seeded, count):
    places = [seeded.randrange(SIZE) for _ in range(count)]
    for place in places:
        data[place] ^= 1
    (image_dir / "two").write_bytes(data)
    first = min(places) // 512 * 512
    assert compare(one, image_dir / "two") == (1, f"Content mismatch at offset {first}!")


def test_image_compare_strictly_names_what_comes_first(image_dir, seeded):
    one = new_image(image_dir / "one", SIZE)
    (image_dir / "two").write_bytes(bytes(SIZE))
    status, text = compare(one, image_dir / "two", "-s")
    assert (status, text) == (1, "Strict mode: Offset 0 block status mismatch!")
    full = seeded.randbytes(10 * MIB)
    (image_dir / "a").write_bytes(full + b"x" * MIB)
    with (image_dir / "b").open("wb") as file:
        file.write(full)
        file.truncate(11 * MIB)
    words = ("image", "compare", "-s", "-f", "raw", "-F", "raw", image_dir / "b", image_dir / "a")
    text = f"Strict mode: Offset {10 * MIB} block status mismatch!"
    assert blkxact(*words).out.strip() == text
    with (image_dir / "b").open("r+b") as file:
        file.write(bytes([full[0] ^ 1]))
    assert blkxact(*words).out.strip() == "Content mismatch at offset 0!"


def test_image_compare_reads_what_cannot_be_looked_at(image_dir, data, one, monkeypatch):
    def fail(*_args):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    for name in ("scan_zeroes", "scan_differences"):
        monkeypatch.setattr(scanned_file, name, fail)
    (image_dir / "two").write_bytes(data)
    assert compare(one, image_dir / "two") == (0, "Images are identical.")
