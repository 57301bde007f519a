"""Disks for the tests of ``blkxact image``, written by QEMU's tools."""

from __future__ import annotations

import json
import struct
import subprocess
from pathlib import Path

from cli_runs import blkxact

KIB = 1 << 10
MIB = 1 << 20
OFFSET_MASK = 0x00FFFFFFFFFFFE00


def image(*words, status=0):
    """Run ``blkxact image`` and return what it printed; it must end with ``status``."""
    done = blkxact("image", *words)
    assert done.status == status, done
    return done.out


def image_json(*words, status=0):
    """Run ``blkxact image VERB --output json``."""
    verb, *rest = words
    return json.loads(image(verb, "--output", "json", *rest, status=status))


def new_image(path: Path, size, *writes, options="", backing: Path | None = None, fmt="qcow2"):
    """Make an image and write to it with ``qemu-io``; return its path.

    What is written to is made by ``qemu-img``, an empty image by ``blkxact``.
    """
    words = ["create", "-q", "-f", fmt]
    words += ["-o", options] if options else []
    words += ["-b", str(backing), "-F", "qcow2"] if backing else []
    words += [str(path), str(size)]
    if writes:
        subprocess.run(["qemu-img", *words], check=True)
    else:
        image(*words)
    guest(path, *writes, fmt=fmt)
    return path


def guest(path: Path, *writes, fmt="qcow2"):
    """Run commands of qemu-io on an image."""
    if writes:
        words = [word for write in writes for word in ("-c", write)]
        subprocess.run(
            ["qemu-io", "-f", fmt, *words, str(path)], check=True, stdout=subprocess.DEVNULL
        )


def random_writes(rng, size, number=5):
    """Return commands of qemu-io that write data and zeroes at random places."""
    writes = []
    for _ in range(number):
        offset = rng.randrange(size // 512) * 512
        length = min(rng.randrange(1, 400) * 512, size - offset)
        verb = rng.choice([f"write -P {rng.randrange(1, 255)}", "write -z", "write -P 0"])
        writes.append(f"{verb} {offset} {length}")
    return writes


class Tables:
    """Where the tables of a qcow2 image lie, and damage done to them."""

    def __init__(self, path: Path) -> None:
        self.path = path
        data = path.read_bytes()
        self.cluster_bits, self.size = struct.unpack_from(">IQ", data, 20)
        self.l1_size, self.l1 = struct.unpack_from(">IQ", data, 36)
        (self.refcount_table,) = struct.unpack_from(">Q", data, 48)
        (self.refcount_block,) = struct.unpack_from(">Q", data, self.refcount_table)
        entries = struct.unpack_from(f">{self.l1_size}Q", data, self.l1)
        self.l2 = [entry & OFFSET_MASK for entry in entries if entry & OFFSET_MASK]

    def write(self, offset, data: bytes):
        """Overwrite bytes of the file."""
        with self.path.open("r+b") as file:
            file.seek(offset)
            file.write(data)

    def entry(self, offset):
        """Return the 64-bit number at ``offset``."""
        return int.from_bytes(self.path.read_bytes()[offset : offset + 8], "big")

    def set_entry(self, offset, value):
        """Overwrite a 64-bit number."""
        self.write(offset, value.to_bytes(8, "big"))

    def set_count(self, cluster, count):
        """Overwrite a reference count of 16 bits."""
        self.write(self.refcount_block + 2 * cluster, count.to_bytes(2, "big"))
