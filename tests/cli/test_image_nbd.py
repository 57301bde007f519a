"""``blkxact image`` with images on NBD servers, beside ``qemu-img``."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from cli_runs import Done, assert_refused, blkxact
from image_tools import guest, image, new_image
from tests.nbd.peers import Peer, nbdkit, qemu_nbd
from tests.nbd.process import run

pytestmark = [pytest.mark.nbd, pytest.mark.qemu]

MIB = 1 << 20


class Exports(NamedTuple):
    """``disk``: an image's content, with a bitmap b0. ``file``: an image's file. ``odd``: bytes."""

    disk: Peer
    file: Peer
    odd: Peer


@pytest.fixture
def exports(image_dir: Path) -> Iterator[Exports]:
    disk, odd = image_dir / "disk.qcow2", image_dir / "odd.raw"
    new_image(disk, "1M", "write -P 1 64k 64k", "write -P 2 300k 5k")
    run("qemu-img", "bitmap", "--add", disk, "b0")
    guest(disk, "write -P 3 128k 64k")
    file = image_dir / "file.qcow2"
    file.write_bytes(disk.read_bytes().ljust(4 * MIB, b"\0"))
    odd.write_bytes(bytes(range(256)) * 4 + b"odd")
    with (
        qemu_nbd(image_dir, "-f", "qcow2", "-x", "disk", "-B", "b0", disk, name="d") as one,
        qemu_nbd(image_dir, "-f", "raw", file, name="f") as two,
        qemu_nbd(image_dir, "-r", "-f", "raw", odd, name="o") as three,
    ):
        yield Exports(one, two, three)


def same(*words: str) -> str:
    """Check that ``qemu-img`` prints the same; return it."""
    ours = image(*words)
    assert ours == run("qemu-img", *words)
    return ours


def same_json(*words: str) -> Any:
    verb, *rest = words
    ours = json.loads(image(verb, "--output=json", *rest))
    assert ours == json.loads(run("qemu-img", verb, "--output=json", *rest))
    return ours


def test_exports_are_told_of_as_by_qemu_img(exports: Exports) -> None:
    options = f"driver=nbd,path={exports.disk.path},export=disk"
    for words in (
        [exports.disk.uri("disk")],
        [f"nbd:unix:{exports.disk.path}:exportname=disk"],
        [exports.odd.uri()],
        ["--image-opts", options],
        ["-f", "raw", exports.file.uri()],
    ):
        same("info", *words)
        same("map", *words)
        same_json("map", *words)
    same_json("map", exports.file.uri())


@pytest.mark.parametrize("context", ["qemu:dirty-bitmap:b0", "base:allocation"])
def test_dirty_bitmap_is_mapped_as_by_qemu_img(exports: Exports, context: str) -> None:
    server = f"server.type=unix,server.path={exports.disk.path}"
    options = f"driver=nbd,{server},export=disk,x-dirty-bitmap={context}"
    same_json("map", "--image-opts", options)


def test_exports_are_compared(exports: Exports) -> None:
    same("compare", exports.disk.uri("disk"), exports.file.uri())
    done = blkxact("image", "compare", "-f", "raw", exports.odd.uri(), exports.disk.uri("disk"))
    assert done.status == 1


def test_conversion_reads_no_holes_and_gives_the_same_bytes(
    exports: Exports, image_dir: Path
) -> None:
    ours, theirs = image_dir / "ours.raw", image_dir / "theirs.raw"
    image("convert", "-O", "raw", exports.disk.uri("disk"), ours)
    run("qemu-img", "convert", "-O", "raw", exports.disk.uri("disk"), theirs)
    assert ours.read_bytes() == theirs.read_bytes()
    assert ours.stat().st_blocks <= theirs.stat().st_blocks


@pytest.mark.parametrize("words", [[], ["-n"]])
def test_conversion_to_an_export_overwrites_what_it_held(image_dir: Path, words: list[str]) -> None:
    """An export is no new file: zeroes must be written."""
    source, target = image_dir / "source.raw", image_dir / "target.raw"
    source.write_bytes(bytes(MIB) + b"x" * MIB + bytes(MIB))
    target.write_bytes(b"old " * MIB)
    with qemu_nbd(image_dir, "-f", "raw", target) as peer:
        image("convert", "-f", "raw", "-O", "raw", *words, source, peer.uri())
    assert target.read_bytes() == source.read_bytes() + b"old " * (MIB // 4)


def test_image_in_an_export_full_of_old_bytes_is_sound(image_dir: Path, seeded) -> None:
    source, file = image_dir / "source.raw", image_dir / "file"
    source.write_bytes(seeded.randbytes(MIB) + bytes(3 * MIB) + seeded.randbytes(MIB))
    file.write_bytes(b"\xff" * 8 * MIB)
    with qemu_nbd(image_dir, "-f", "raw", file) as peer:
        image("convert", "-f", "raw", "-O", "qcow2", source, peer.uri())
        assert image("compare", "-f", "raw", "-F", "qcow2", source, peer.uri())
        image("check", "-f", "qcow2", peer.uri())
    run("qemu-img", "check", "-f", "qcow2", file)
    run("qemu-img", "compare", "-f", "raw", "-F", "qcow2", source, file)


def test_new_images_in_exports_are_made_or_refused_as_by_qemu_img(image_dir: Path) -> None:
    with nbdkit(image_dir, "memory", "4M") as peer:
        uri = peer.uri()
        for words in (["raw", uri, "1M"], ["qcow2", uri, "100M"]):
            same("create", "-f", *words)
        said = assert_refused(blkxact("image", "create", "-q", "-f", "raw", uri, "8M"))
        assert said == f"{uri}: Cannot grow NBD nodes"
        assert said in run("qemu-img", "create", "-q", "-f", "raw", uri, "8M", status=1)
    said = assert_refused(blkxact("image", "create", "-q", "-f", "raw", uri, "1M"))
    assert said.startswith(
        f"{uri}: Protocol driver 'nbd' does not support image creation, and opening the image "
        f"failed: Failed to connect to '{peer.path}': "
    )


def test_conversion_that_fails_leaves_the_export_there(image_dir: Path) -> None:
    source = image_dir / "source.raw"
    source.write_bytes(b"x" * MIB)
    words = ["memory", "1M", "error=ENOSPC", "error-pwrite-rate=100%"]
    with nbdkit(image_dir, "--filter=error", *words) as peer:
        done = blkxact("image", "convert", "-n", "-f", "raw", "-O", "raw", source, peer.uri())
        assert "No space left on device" in assert_refused(done)


def test_export_that_is_not_there_is_refused_in_one_line(exports: Exports) -> None:
    refused: Done = blkxact("image", "info", exports.disk.uri("nope"))
    uri = exports.disk.uri("nope")
    assert assert_refused(refused) == f"Could not open '{uri}': Requested export not available"
