"""``blkxact image convert``: the same disk in another image, as qemu-img would copy it."""

from __future__ import annotations

import json
import random

import pytest
from cli_runs import assert_refused, blkxact
from image_tools import KIB, MIB, guest, image, image_json, new_image, random_writes

from blkxact.image_tools.convert import data_runs

FLAGS = [
    ("raw", ()),
    ("raw", ("-S", "0")),
    ("raw", ("-C",)),
    ("qcow2", ()),
    ("qcow2", ("-S", "64k")),
    ("qcow2", ("-C",)),
    ("qcow2", ("-m", "1", "-W", "-o", "cluster_size=512")),
]


@pytest.fixture
def chain(image_dir, seeded):
    """An overlay and its backing file, with data and zeroes in both."""
    size = 2 * MIB + 512
    cluster = f"cluster_size={seeded.choice(['512', '4k', '64k'])}"
    base = new_image(image_dir / "base", size, *random_writes(seeded, size), options=cluster)
    top = image_dir / "top"
    return new_image(top, size, *random_writes(seeded, size), options=cluster, backing=base)


def data_bytes(qemu_img, path, fmt):
    """Return how much of an image's own layer is data."""
    entries = json.loads(qemu_img("map", "--output=json", "-f", fmt, path))
    return sum(entry["length"] for entry in entries if entry["data"] and not entry["depth"])


@pytest.mark.qemu
@pytest.mark.parametrize(("fmt", "flags"), FLAGS)
def test_image_convert_makes_what_qemu_img_makes(image_dir, qemu_img, chain, fmt, flags):
    ours, theirs = image_dir / "ours", image_dir / "theirs"
    assert image("convert", "-O", fmt, *flags, chain, ours) == ""
    qemu_img("convert", "-O", fmt, *flags, chain, theirs)
    qemu_img("compare", "-F", fmt, chain, ours)
    if fmt == "qcow2":
        qemu_img("check", ours)
    if "-C" not in flags:
        difference = data_bytes(qemu_img, ours, fmt) - data_bytes(qemu_img, theirs, fmt)
        assert abs(difference) <= 128 * KIB


@pytest.mark.qemu
@pytest.mark.parametrize("kind", ["zlib", "zstd"])
@pytest.mark.parametrize("cluster", ["512", "4k", "64k", "2M"])
def test_image_convert_compressed_makes_what_qemu_img_makes(
    image_dir, qemu_img, chain, kind, cluster
):
    ours, theirs = image_dir / "ours", image_dir / "theirs"
    # Some of it does not get smaller, and some of that crosses clusters.
    data = random.Random(1)
    (image_dir / "noise").write_bytes(data.randbytes(100 * KIB) + b"x" * 100 * KIB)
    guest(chain, f"write -s {image_dir / 'noise'} 300k 500k")
    options = ("-o", f"compression_type={kind},cluster_size={cluster}")
    assert image("convert", "-c", "-O", "qcow2", *options, chain, ours) == ""
    qemu_img("convert", "-c", "-O", "qcow2", *options, chain, theirs)
    qemu_img("compare", "-f", "qcow2", "-F", "qcow2", chain, ours)
    assert (
        image("compare", "-f", "qcow2", "-F", "qcow2", chain, theirs) == "Images are identical.\n"
    )
    found = [json.loads(qemu_img("check", "--output=json", path)) for path in (ours, theirs)]
    for name in ("compressed-clusters", "allocated-clusters", "total-clusters"):
        assert found[0].get(name) == found[1].get(name), name
    ours.rename(image_dir / "first")
    image("convert", "-c", "-O", "qcow2", *options, chain, ours)
    assert ours.read_bytes() == (image_dir / "first").read_bytes(), "it does not depend on threads"
    image("convert", "-c", "-W", "-O", "qcow2", *options, chain, ours)
    qemu_img("check", ours)
    qemu_img("compare", chain, ours)


@pytest.mark.parametrize("sources", [1, 2])
@pytest.mark.parametrize(
    ("words", "existing"),
    [
        ("compression_type=zlib", False),
        ("compression_type=zstd", False),
        ("cluster_size=4k", False),
        ("extended_l2=on", False),
        ("compat=0.10", True),
    ],
)
def test_image_convert_compressed_ends_with_a_whole_sector(image_dir, words, existing, sources):
    source, target = image_dir / "source", image_dir / "target"
    source.write_bytes(random.Random(1).randbytes(64 * KIB) + b"q" * 5000)
    options = ("-o", words)
    if existing:  # of the sources' size in whole sectors
        new_image(target, sources * 138 * 512, options=words)
        options = ("-n",)
    image("convert", "-f", "raw", "-O", "qcow2", "-c", *options, *[source] * sources, target)
    assert target.stat().st_size % 512 == 0
    image("check", target)


@pytest.mark.qemu
def test_image_convert_over_a_backing_file_copies_the_own_layer_only(image_dir, qemu_img, chain):
    ours, theirs = image_dir / "ours", image_dir / "theirs"
    words = ("-O", "qcow2", "-B", image_dir / "base", "-F", "qcow2", chain)
    image("convert", *words, ours)
    qemu_img("convert", *words, theirs)
    qemu_img("compare", chain, ours)
    qemu_img("check", ours)
    assert image_json("info", ours)["full-backing-filename"] == str(image_dir / "base")
    assert data_bytes(qemu_img, ours, "qcow2") <= data_bytes(qemu_img, theirs, "qcow2") + 64 * KIB


@pytest.mark.qemu
@pytest.mark.parametrize("fmt", ["qcow2", "raw"])
def test_image_convert_into_an_existing_image_overwrites_all_of_it(image_dir, qemu_img, chain, fmt):
    target = new_image(image_dir / "target", "3M", "write -P 7 0 3M", fmt=fmt)
    image("convert", "-n", "-O", fmt, chain, target)
    out = image_dir / "out"
    qemu_img("convert", "-f", fmt, "-O", "raw", target, out)
    expected = image_dir / "expected"
    qemu_img("convert", "-O", "raw", chain, expected)
    size = 2 * MIB + 512
    assert out.read_bytes() == expected.read_bytes() + b"\7" * (3 * MIB - size)


@pytest.mark.qemu
def test_image_convert_puts_sources_one_behind_the_other(image_dir, qemu_img):
    one = new_image(image_dir / "one", MIB + 512, "write -P 1 0 1M")
    two = new_image(image_dir / "two", MIB, "write -P 2 512k 512k")
    out = image_dir / "out"
    image("convert", one, two, out)
    qemu_img("convert", one, two, image_dir / "theirs")
    assert out.read_bytes() == (image_dir / "theirs").read_bytes()


@pytest.mark.qemu
def test_image_convert_takes_bitmaps_along(image_dir, qemu_img):
    path = new_image(image_dir / "disk", 4 * MIB)
    image("bitmap", "--add", "-g", "4k", path, "b0")
    guest(path, "write 1M 10k")
    image("bitmap", "--add", "--disable", path, "b1")
    image("bitmap", "--add", path, "a")
    copy = image_dir / "copy"
    image("convert", "--bitmaps", "-O", "qcow2", path, copy)
    data = image_json("info", copy)["format-specific"]["data"]
    assert [(b["name"], b["granularity"], b["flags"]) for b in data["bitmaps"]] == [
        ("b0", 4096, ["auto"]),
        ("b1", 65536, []),
        ("a", 65536, ["auto"]),
    ]
    qemu_img("convert", "--bitmaps", "-O", "qcow2", path, image_dir / "theirs")
    theirs = image_json("info", image_dir / "theirs")["format-specific"]["data"]
    assert data["bitmaps"] == theirs["bitmaps"]
    layers = json.loads(blkxact("chain", "show", "--output", "json", copy).out)
    assert {b["name"]: b["count"] for b in layers[0]["dirty-bitmaps"]} == {
        "b0": 12288,
        "b1": 0,
        "a": 0,
    }
    qemu_img("check", copy)


@pytest.mark.qemu
def test_image_convert_tells_of_its_progress(image_dir):
    path = new_image(image_dir / "disk", 64 * MIB, "write -P 1 0 8M")
    lines = image("convert", "-p", path, image_dir / "out").splitlines()
    assert lines[0] == "0%"
    assert lines[-1] == "100%"


REFUSALS = [
    (("-c", "-C"), "Cannot enable copy offloading when -c is used"),
    (("-S", "4k", "-C"), "Cannot enable copy offloading when -S is used"),
    (("--salvage", "-C"), "Cannot use copy offloading in salvaging mode"),
    (("-n", "-o", "cluster_size=4k"), "-o has no effect when skipping image creation"),
    (("--target-is-zero",), "--target-is-zero requires use of -n flag"),
    (("--skip-broken-bitmaps",), "requires --bitmaps"),
    (("-m", "17"), "Allowed number of coroutines is between 1 and 16"),
    (("-f", "raw", "-l", "s"), "used by device '' does not support temporarily loading"),
    (("-o", "cluster_size=4k"), "Invalid parameter 'cluster_size'"),
    (("-B", "base", "-F", "raw"), "Backing file not supported for file format 'raw'"),
    (("-S", "1000"), "Invalid buffer size for sparse output"),
    (("-l", "none"), "Failed to load snapshot: Can't find snapshot"),
    (("-O", "vmdk"), "does not support image creation"),
    (("-O", "raw", "--bitmaps"), "Format driver 'raw' does not support bitmaps"),
    (("-O", "raw", "-c"), "Compression not supported for this file format"),
    (("-O", "qcow2", "-B", "none"), "backing file requires explicit backing format"),
    (("-O", "qcow2", "-B", "none", "-F", "qcow2"), "could not open backing image"),
    (("-t", "fast"), "Invalid cache option: fast"),
    (("-T", "fast"), "Invalid source cache option: fast"),
]


@pytest.mark.parametrize("options", [("-f", "raw"), ("-f", "qcow2", "-o", "compat=v2")])
def test_image_convert_with_bitmaps_needs_a_source_that_may_have_some(image_dir, options):
    image("create", "-q", *options, image_dir / "a", "1M")
    words = ("convert", "--bitmaps", *options[:2], "-O", "qcow2", image_dir / "a", image_dir / "b")
    assert assert_refused(blkxact("image", *words)) == "Source lacks bitmap support"


def test_image_convert_into_an_existing_raw_image_may_name_a_backing_file(image_dir):
    for name in ("a", "b"):
        image("create", "-q", "-f", "raw", image_dir / name, "1M")
    words = ("-n", "-f", "raw", "-O", "raw", "-B", "x", "-F", "raw")
    (image_dir / "a").write_bytes(b"x" * MIB)
    image("convert", *words, image_dir / "a", image_dir / "b")
    assert (image_dir / "b").read_bytes() == b"x" * MIB


@pytest.mark.qemu
@pytest.mark.parametrize(("words", "refusal"), REFUSALS)
def test_image_convert_that_cannot_be_leaves_no_file(image_dir, words, refusal):
    path, out = new_image(image_dir / "disk", MIB), image_dir / "out"
    assert refusal in assert_refused(blkxact("image", "convert", *words, path, out))
    assert not out.exists()


@pytest.mark.qemu
def test_image_convert_writes_the_disk_in_order(image_dir):
    """Sixteen pieces, read eight at a time, lie one behind the other."""
    path, copy = image_dir / "disk", image_dir / "copy"
    path.write_bytes(b"x" * (32 * MIB))
    image("convert", "-f", "raw", "-O", "qcow2", path, copy)
    (entry,) = image_json("map", copy)
    assert (entry["length"], entry["data"], "offset" in entry) == (32 * MIB, True, True)


def test_image_convert_that_fails_leaves_no_data_file(image_dir):
    path, names = new_image(image_dir / "disk", MIB), [image_dir / "out", image_dir / "data"]
    options = f"data_file={names[1]}"
    words = ("-c", "-O", "qcow2", "-o", options, path, names[0])
    assert_refused(blkxact("image", "convert", *words))
    assert not any(name.exists() for name in names)
    names[1].write_bytes(b"mine")
    assert_refused(blkxact("image", "convert", *words))
    assert names[1].exists()


def test_image_convert_into_itself_is_refused(image_dir):
    path = new_image(image_dir / "disk", MIB, "write 0 64k")
    before = path.read_bytes()
    line = assert_refused(blkxact("image", "convert", "-O", "qcow2", path, path))
    assert "cannot be converted into itself" in line
    assert path.read_bytes() == before


@pytest.mark.qemu
def test_image_convert_into_a_smaller_image_is_refused(image_dir):
    path, small = new_image(image_dir / "disk", MIB), new_image(image_dir / "small", 512 * KIB)
    before = small.read_bytes()
    line = assert_refused(blkxact("image", "convert", "-n", "-O", "qcow2", path, small))
    assert line == "output file is smaller than input file"
    assert small.read_bytes() == before


def test_image_convert_of_a_missing_image_is_one_line(image_dir):
    line = assert_refused(blkxact("image", "convert", image_dir / "none", image_dir / "out"))
    assert "No such file or directory" in line


@pytest.mark.parametrize(
    ("data", "sparse", "runs"),
    [
        (b"xxxx", 2, [(0, 4, False)]),
        (b"xx\0\0xx", 2, [(0, 2, False), (2, 4, True), (4, 6, False)]),
        (b"x\0\0x", 2, [(0, 4, False)]),
        (bytes(5), 2, [(0, 5, True)]),
        (bytes(4), 0, [(0, 4, False)]),
    ],
)
def test_data_runs_find_whole_blocks_of_zeroes(data, sparse, runs):
    assert data_runs(data, sparse) == runs
