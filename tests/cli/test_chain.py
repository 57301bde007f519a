"""``blkxact chain``: what a backup chain holds, whether it is whole, and its restore."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from cli_runs import assert_refused, blkxact
from image_tools import KIB, MIB, Tables, new_image

from blkxact.image_tools.chain import Picture

pytestmark = pytest.mark.qemu


@pytest.fixture
def chain(image_dir):
    """A full backup and two increments; the uppermost."""
    full = new_image(image_dir / "full", 8 * MIB, "write -P 1 0 4M")
    first = new_image(image_dir / "inc1", 8 * MIB, "write -P 2 2M 1M", backing=full)
    return new_image(
        image_dir / "inc2", 8 * MIB, "write -P 3 2560k 1M", "write -z 0 64k", backing=first
    )


def show(path):
    done = blkxact("chain", "show", "--output", "json", path)
    assert done.status == 0, done
    return json.loads(done.out)


def verify(path, status=0):
    done = blkxact("chain", "verify", "--output", "json", path)
    assert done.status == status, done
    return json.loads(done.out)


def test_chain_show_tells_what_each_layer_holds(chain):
    layers = show(chain)
    assert [Path(layer["filename"]).name for layer in layers] == ["inc2", "inc1", "full"]
    assert [layer["data-bytes"] for layer in layers] == [MIB, MIB, 4 * MIB]
    assert [layer["visible-bytes"] for layer in layers] == [
        MIB, 512 * KIB, 4 * MIB - 64 * KIB - 1536 * KIB,
    ]  # fmt: skip
    assert [layer["zero-bytes"] for layer in layers] == [64 * KIB, 0, 0]
    assert [layer["extents"] for layer in layers] == [2, 1, 1]
    assert all(layer["written"] for layer in layers)


def test_chain_show_draws_who_holds_what(chain):
    lines = blkxact("chain", "show", chain).out.splitlines()
    picture = [line for line in lines if line[1:2] == " " != line[:1] and len(line.split()) == 2]
    assert [line[0] for line in picture] == ["2", "1", "0", "="]
    assert picture[1] == "1 " + "·" * 16 + "█" * 8 + "·" * 40
    assert picture[3] == "= " + "0" * 16 + "1111" + "2" * 8 + "0000" + "·" * 32
    assert lines[9] == "  |0              |2 MiB          |4 MiB          |6 MiB    8 MiB|"
    assert "inc1" in lines[2]


def test_chain_show_of_a_name_that_is_not_utf_8_writes_its_bytes(chain, image_dir):
    odd = os.fsencode(image_dir) + b"/caf\xe9"
    chain.rename(Path(os.fsdecode(odd)))
    show = [sys.executable, "-m", "blkxact", "chain", "show", odd]
    for encoding in ("utf-8", "ascii"):
        done = subprocess.run(
            show, capture_output=True, check=True, env=os.environ | {"PYTHONIOENCODING": encoding}
        )
        assert b"/caf\xe9 " in done.stdout
        assert (b"\xb7" in done.stdout) == (encoding == "utf-8")
        assert b"\\x" not in done.stdout


def test_chain_verify_of_a_sound_chain_finds_nothing(chain):
    verdict = verify(chain)
    assert verdict["sound"]
    assert verdict["findings"] == []
    assert [image["check"]["check-errors"] for image in verdict["images"]] == [0, 0, 0]
    assert blkxact("chain", "verify", chain).out == (
        "No errors were found on the 3 images of the chain.\n"
    )


def findings(path, status):
    return {
        (Path(finding["filename"]).name, finding["severity"])
        for finding in verify(path, status)["findings"]
    }


def test_chain_verify_names_the_damaged_image(chain, image_dir):
    tables = Tables(image_dir / "inc1")
    tables.set_count(tables.l2[0] >> tables.cluster_bits, 0)
    os.utime(image_dir / "inc1", (0, 0))
    os.utime(image_dir / "full", (0, 0))
    assert findings(chain, 2) == {("inc1", "error")}


def test_chain_verify_of_leaks_alone_is_status_3(chain, image_dir):
    tables = Tables(chain)
    tables.write((61 << 16) - 1, b"x")
    tables.set_count(60, 1)
    assert findings(chain, 3) == {("inc2", "leaks")}


def test_chain_verify_names_a_missing_link(chain, image_dir):
    (image_dir / "full").unlink()
    assert findings(chain, 2) == {("inc1", "error")}


def test_chain_verify_finds_a_loop(chain, image_dir, qemu_img):
    qemu_img("rebase", "-u", "-b", chain, "-F", "qcow2", image_dir / "full")
    verdict = verify(chain, 2)
    assert any("infinite loop" in finding["text"] for finding in verdict["findings"])
    assert len(verdict["images"]) == 3


def test_chain_verify_finds_a_wrong_format(chain, image_dir, qemu_img):
    raw = image_dir / "raw"
    qemu_img("convert", "-O", "raw", image_dir / "full", raw)
    raw.rename(image_dir / "full")
    assert ("inc1", "error") in findings(chain, 2)


def test_chain_verify_warns_of_a_backing_file_changed_later(chain, image_dir):
    os.utime(image_dir / "full", (2**32, 2**32))
    assert findings(chain, 0) == {("inc1", "warning")}


def test_chain_verify_warns_of_a_backing_file_that_is_longer(chain, qemu_img):
    qemu_img("resize", "--shrink", "-f", "qcow2", chain, "4M")
    assert findings(chain, 0) == {("inc2", "warning")}


def test_chain_verify_of_a_missing_image_is_status_1(image_dir):
    assert "No such file" in assert_refused(blkxact("chain", "verify", image_dir / "none"))


@pytest.mark.parametrize("fmt", ["qcow2", "raw"])
def test_chain_flatten_restores_the_disk(chain, image_dir, qemu_img, fmt):
    out = image_dir / "out"
    done = blkxact("chain", "flatten", "--compare", "-p", "-O", fmt, chain, out)
    assert done.status == 0, done
    assert "restore: 100%" in done.out
    assert "compare: 100%" in done.out
    qemu_img("compare", "-F", fmt, chain, out)
    assert "backing-filename" not in json.loads(qemu_img("info", "--output=json", out))


def test_chain_flatten_does_not_write_over_the_chain(chain, image_dir):
    before = (image_dir / "full").read_bytes()
    line = assert_refused(blkxact("chain", "flatten", chain, image_dir / "full"))
    assert "is part of the chain" in line
    assert (image_dir / "full").read_bytes() == before


def test_chain_flatten_of_a_broken_chain_leaves_no_file(chain, image_dir):
    (image_dir / "full").unlink()
    assert_refused(blkxact("chain", "flatten", chain, image_dir / "out"))
    assert not (image_dir / "out").exists()


def test_picture_counts_each_part_of_a_disk():
    picture = Picture.empty(1000, 4)
    picture.add(0, 125)
    picture.add(200, 300)
    picture.add(999, 100)
    assert picture.cells == [175, 250, 0, 1]
    assert picture.fractions() == [0.7, 1, 0, 0.004]


def test_picture_of_a_tiny_disk_has_as_many_parts_as_bytes():
    assert Picture.empty(3, 64).cells == [0, 0, 0]
    assert Picture.empty(0, 64).fractions() == [0]
