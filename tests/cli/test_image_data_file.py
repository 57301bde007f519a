"""``blkxact image`` and images with an external data file, beside qemu-img."""

from __future__ import annotations

import json
import subprocess

import pytest
from cli_runs import assert_refused, blkxact
from image_tools import MIB, guest, image, image_json, random_writes

pytestmark = pytest.mark.qemu


@pytest.fixture
def disk(image_dir, seeded):
    path = image_dir / "disk"
    image("create", "-q", "-f", "qcow2", "-o", f"data_file={image_dir / 'data'}", path, 2 * MIB)
    guest(path, "write -P 5 0 100k", *random_writes(seeded, 2 * MIB))
    return path


@pytest.mark.parametrize("raw", ["on", "off"])
@pytest.mark.parametrize("prealloc", ["off", "metadata", "falloc", "full"])
def test_image_create_makes_what_qemu_img_makes(image_dir, qemu_img, raw, prealloc):
    infos, files = [], []
    for make in (image, qemu_img):
        path, data = image_dir / "disk", image_dir / "data"
        path.unlink(missing_ok=True)
        data.unlink(missing_ok=True)
        options = f"data_file={data},data_file_raw={raw},preallocation={prealloc}"
        make("create", "-f", "qcow2", "-o", options, path, MIB)
        info = json.loads(qemu_img("info", "--output=json", path))
        assert image_json("info", path)["format-specific"] == info["format-specific"]
        infos.append(info["format-specific"])
        files.append((path.read_bytes(), data.read_bytes()))
        qemu_img("check", path)
    assert infos[0] == infos[1]
    assert files[0][1] == files[1][1]
    assert len(files[0][0].rstrip(b"\0")) == len(files[1][0].rstrip(b"\0"))


def test_image_create_gives_the_data_file_its_room(image_dir):
    for mode, room in (("metadata", 0), ("falloc", MIB), ("full", MIB)):
        data = image_dir / mode
        options = f"data_file={data},preallocation={mode}"
        image("create", "-q", "-f", "qcow2", "-o", options, image_dir / f"{mode}.qcow2", "1M")
        assert data.stat().st_size == MIB
        assert data.stat().st_blocks * 512 >= room


def test_image_create_tells_of_the_data_file_in_the_words_of_qemu_img(image_dir, qemu_img):
    options = f"data_file={image_dir / 'data'},data_file_raw=on"
    words = ("create", "-f", "qcow2", "-o", options, image_dir / "disk", MIB)
    assert image(*words) == qemu_img(*words)


def test_image_info_needs_no_data_file(image_dir, qemu_img, disk):
    (image_dir / "data").unlink()
    assert image("info", disk).splitlines()[5:] == qemu_img("info", disk).splitlines()[5:]
    done = blkxact("image", "map", disk)
    assert_refused(done)
    assert f"Could not open '{image_dir / 'data'}'" in done.err


def test_image_map_and_check_tell_what_qemu_img_tells(image_dir, qemu_img, disk):
    theirs = json.loads(qemu_img("map", "--output=json", disk))
    assert image_json("map", disk) == theirs
    assert image("map", disk) == qemu_img("map", disk)
    assert image("check", disk) == qemu_img("check", disk)


@pytest.mark.parametrize("raw", ["on", "off"])
def test_image_convert_copies_out_of_and_into_data_files(image_dir, qemu_img, disk, raw):
    options = f"data_file={image_dir / 'other'},data_file_raw={raw}"
    image("convert", "-O", "qcow2", "-o", options, disk, image_dir / "copy")
    assert qemu_img("compare", disk, image_dir / "copy") == "Images are identical.\n"
    qemu_img("check", image_dir / "copy")
    if raw == "on":
        qemu_img("compare", "-F", "raw", disk, image_dir / "other")
    image("compare", disk, image_dir / "copy")


def test_image_resize_takes_the_data_file_along(image_dir, qemu_img, disk):
    image("resize", "-q", "-f", "qcow2", disk, "3M")
    assert (image_dir / "data").stat().st_size == 3 * MIB
    image("resize", "-q", "-f", "qcow2", "--shrink", disk, "1M")
    assert (image_dir / "data").stat().st_size == MIB
    qemu_img("check", disk)


REFUSED = [
    ("create", "-f", "qcow2", "-o", "data_file_raw=on", "new", "1M"),
    ("create", "-f", "qcow2", "-o", "data_file=d,data_file_raw=on", "-b", "disk",
     "-F", "qcow2", "new"),
    ("create", "-f", "qcow2", "-o", "data_file=d,compat=0.10", "new", "1M"),
    ("create", "-f", "qcow2", "-o", "data_file=", "new", "1M"),
    ("snapshot", "-c", "s", "disk"),
    ("snapshot", "-d", "s", "disk"),
    ("rebase", "-u", "-b", "disk", "-F", "qcow2", "raw"),
    ("convert", "-c", "-O", "qcow2", "-o", "data_file=d", "disk", "new"),
]  # fmt: skip


@pytest.mark.parametrize("words", REFUSED, ids=lambda words: " ".join(words[:5]))
def test_image_verbs_refuse_what_qemu_img_refuses(image_dir, disk, words, monkeypatch):
    monkeypatch.chdir(image_dir)
    image("create", "-q", "-f", "qcow2", "-o", "data_file=r,data_file_raw=on", "raw", "1M")
    before = {path.name: path.read_bytes() for path in image_dir.iterdir()}
    theirs = subprocess.run(["qemu-img", *words], capture_output=True, text=True, check=False)
    for path in image_dir.iterdir():
        if path.name not in before:
            path.unlink()
    done = blkxact("image", *words)
    assert done.status == theirs.returncode != 0, done
    ours, expected = done.err.splitlines()[-1], theirs.stderr.splitlines()[-1]
    assert ours.removeprefix("blkxact: ") == expected.removeprefix("qemu-img: ")
    after = {path.name: path.read_bytes() for path in image_dir.iterdir()}
    assert {name: after[name] for name in before} == before
