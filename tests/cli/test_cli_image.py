"""``blkxact image``: create, info and compare by themselves, and beside qemu-img."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from cli_runs import assert_refused, blkxact


def create(*words):
    done = blkxact("image", "create", "-q", *words)
    assert (done.status, done.out, done.err) == (0, "", "")


def info(*words):
    done = blkxact("image", "info", "--output", "json", *words)
    assert done.status == 0, done.err
    return json.loads(done.out)


def test_image_create_tells_what_it_makes(image_dir):
    done = blkxact("image", "create", "-f", "qcow2", image_dir / "a", "64M")
    assert done.status == 0
    assert done.out == (
        f"Formatting '{image_dir / 'a'}', fmt=qcow2 cluster_size=65536 extended_l2=off "
        "compression_type=zlib size=67108864 lazy_refcounts=off refcount_bits=16\n"
    )
    assert info(image_dir / "a")["virtual-size"] == 64 << 20


def test_image_create_over_a_backing_file_takes_its_size_and_its_relative_name(image_dir):
    create("-f", "qcow2", image_dir / "base", "3M")
    create("-f", "qcow2", "-b", "base", "-F", "qcow2", image_dir / "top")
    top, base = info("--backing-chain", image_dir / "top")
    assert top["virtual-size"] == base["virtual-size"] == 3 << 20
    assert top["backing-filename"] == "base"
    assert top["full-backing-filename"] == str(image_dir / "base")


@pytest.mark.qemu
@pytest.mark.parametrize("named", ["base", "./base"])
@pytest.mark.parametrize("fmt", ["raw", "qcow2"])
def test_image_info_of_an_overlay_is_that_of_qemu_img(image_dir, qemu_img, monkeypatch, named, fmt):
    monkeypatch.chdir(image_dir)
    qemu_img("create", "-q", "-f", fmt, "base", "3M")
    qemu_img("create", "-q", "-f", "qcow2", "-b", named, "-F", fmt, "top")
    for path in ("top", image_dir / "top"):
        for words in (("top",), ("--backing-chain", path), ("-U", path)):
            assert info(*words) == json.loads(qemu_img("info", "--output", "json", *words))


def test_image_create_without_opening_the_backing_file_needs_a_size(image_dir):
    words = ("-f", "qcow2", "-u", "-b", "nowhere", "-F", "raw", image_dir / "a")
    assert "needs a size" in assert_refused(blkxact("image", "create", *words))
    create(*words, "1M")


@pytest.mark.parametrize(
    ("words", "refusal"),
    [
        (["-f", "qcow2"], "Image creation needs a size parameter"),
        (["-f", "qcow2", "-b", "nowhere", "-F", "qcow2"], "No such file or directory"),
        (["-f", "qcow2", "-b", "nowhere"], "Backing file specified without backing format"),
    ],
)
def test_image_create_that_cannot_be_leaves_no_file(image_dir, words, refusal):
    path = image_dir / "a"
    assert refusal in assert_refused(blkxact("image", "create", *words, path))
    assert not path.exists()


@pytest.mark.parametrize(
    ("words", "refusal"),
    [
        (["-f", "vmdk"], "does not support image creation"),
        (["-f", "qcow2", "-o", "cluster_size=100"], "Cluster size must be a power of two"),
        (["-f", "qcow2", "-o", "foo=1"], "Invalid parameter 'foo'"),
        (["-f", "qcow2", "-o", "lazy_refcounts=maybe"], "expects 'on' or 'off'"),
        (["-f", "qcow2", "-o", "refcount_bits=x"], "'refcount_bits' expects a number"),
        (["-f", "qcow2", "-o", "preallocation=x"], "'preallocation' does not accept value 'x'"),
        (["-f", "raw", "-o", "preallocation=metadata"], "Unsupported preallocation mode: metadata"),
        (["-f", "raw", "-o", "extent_size_hint=8G"], "Extent size hint is too large"),
        (["-f", "raw", "-o", "lazy_refcounts=on"], "Invalid parameter 'lazy_refcounts'"),
        (["-f", "raw", "-o", "size=1M"], "The image size must be specified only once"),
        (["-f", "raw", "-o", "nocow=on,"], "Invalid option list: nocow=on,"),
        (["-f", "qcow2", "-o", "encryption=on"], "'encryption' is not supported yet"),
        (["-f", "raw", "-b", "x", "-F", "raw", "-u"], "Backing file not supported"),
    ],
)
def test_image_create_with_bad_options_is_refused(image_dir, words, refusal):
    path = image_dir / "a"
    assert refusal in assert_refused(blkxact("image", "create", *words, path, "1M"))
    assert not path.exists()


def test_image_info_of_a_missing_file_is_one_line(image_dir):
    line = assert_refused(blkxact("image", "info", image_dir / "none"))
    assert "No such file or directory" in line


def raw(path, size, *pieces):
    with path.open("wb") as file:
        file.truncate(size)
        for offset, data in pieces:
            file.seek(offset)
            file.write(data)
    return path


PAIRS = [
    pytest.param((4096,), (4096,), (), 0, "Images are identical.", id="both empty"),
    pytest.param(
        (8 << 20, (5 << 20, b"x")), (8 << 20,), (), 1,
        f"Content mismatch at offset {5 << 20}!", id="one byte",
    ),
    pytest.param(
        (8 << 20, (1000, b"x"), (9000, b"y")), (8 << 20, (1000, b"x"), (9001, b"y")), (), 1,
        "Content mismatch at offset 8704!", id="the first of them",
    ),
    pytest.param(
        (4096, (0, bytes(4096))), (4096,), (), 0, "Images are identical.", id="zeroes and a hole"
    ),
    pytest.param(
        (4096,), (8192,), (), 0, "Warning: Image size mismatch!\nImages are identical.",
        id="longer by zeroes",
    ),
    pytest.param(
        (4096,), (8192, (6000, b"x")), (), 1,
        "Warning: Image size mismatch!\nContent mismatch at offset 5632!", id="longer by data",
    ),
    pytest.param(
        (4096, (0, b"x")), (8192, (6000, b"x")), (), 1, "Content mismatch at offset 0!",
        id="longer and another",
    ),
    pytest.param(
        (4096,), (8192,), ("-s",), 1, "Strict mode: Image size mismatch!", id="strict size"
    ),
    pytest.param((4096, (0, b"x")), (4096,), ("-q",), 1, "", id="quiet"),
]  # fmt: skip


@pytest.mark.parametrize(("one", "other", "words", "status", "out"), PAIRS)
def test_image_compare_says_whether_disks_are_equal(image_dir, one, other, words, status, out):
    paths = raw(image_dir / "one", *one), raw(image_dir / "other", *other)
    done = blkxact("image", "compare", "-f", "raw", "-F", "raw", *words, *paths)
    assert (done.status, done.out.strip(), done.err) == (status, out, "")


@pytest.mark.qemu
@pytest.mark.parametrize(("one", "other", "words", "status", "out"), PAIRS)
def test_image_compare_says_what_qemu_img_says(image_dir, qemu_img, one, other, words, status, out):
    paths = raw(image_dir / "one", *one), raw(image_dir / "other", *other)
    printed = qemu_img("compare", "-f", "raw", "-F", "raw", *words, *paths, status=status)
    assert printed.strip() == out


def test_image_compare_without_an_image_is_status_2(image_dir):
    path = raw(image_dir / "one", 4096)
    assert_refused(blkxact("image", "compare", path, image_dir / "none"), status=2)


OPTIONS = [
    ("-f", "raw"),
    ("-f", "qcow2"),
    ("-f", "qcow2", "-o", "cluster_size=4k,lazy_refcounts=on"),
    ("-f", "qcow2", "-o", "compat=0.10"),
    ("-f", "qcow2", "-o", "refcount_bits=1,compression_type=zstd"),
    ("-f", "qcow2", "-o", "extended_l2=on,cluster_size=16k"),
]


@pytest.mark.qemu
@pytest.mark.parametrize(
    "options",
    [
        *OPTIONS,
        ("-f", "raw", "-o", "preallocation=falloc,nocow=on"),
        ("-f", "qcow2", "-o", "compat=v3,nocow=off,preallocation=off,lazy_refcounts=off"),
        ("-f", "qcow2", "-o", "preallocation=metadata,compat=1.1", "-o", "extent_size_hint=0"),
        ("-f", "qcow2", "-u", "-b", "base", "-F", "raw", "-o", "compat=v2"),
    ],
    ids=" ".join,
)
def test_image_create_says_what_qemu_img_says(image_dir, qemu_img, options):
    words = ("create", *options, image_dir / "a", "5M")
    assert blkxact("image", *words).out == qemu_img(*words)


@pytest.mark.qemu
@pytest.mark.parametrize(
    "words",
    [
        "-o cluster_size=512 a 1024G",
        "-o compat=0.42 a 1M",
        "-o preallocation=1234 a 64M",
        "-o compression_type=lzo a 64M",
        "-o encryption=off a 64M",
        "a 1024.0",
        "a 1024.0b",
        "-o compat=0.10,lazy_refcounts=on a 64M",
        "-o cluster_size=1000 a 64M",
        "-b  -F raw a 1M",
        "file:image:a 1M",
        "a 1234",
        "-u -b a,b -F raw a 1M",
    ],
)
def test_image_create_says_so_and_refuses_as_qemu_img(image_dir, qemu_img, monkeypatch, words):
    monkeypatch.chdir(image_dir)
    arguments = ["create", "-f", "qcow2", *words.split(" ")]
    theirs = subprocess.run(["qemu-img", *arguments], capture_output=True, text=True, check=False)
    ours = blkxact("image", *arguments)
    assert (ours.status, ours.out, ours.err.removeprefix("blkxact: ")) == (
        theirs.returncode,
        theirs.stdout,
        theirs.stderr.removeprefix("qemu-img: "),
    )


@pytest.mark.qemu
@pytest.mark.parametrize("verb", ["create -f", "convert -O"])
@pytest.mark.parametrize("fmt", ["raw", "qcow2"])
@pytest.mark.parametrize("name", ["", "new"])
def test_image_create_lists_the_options_that_qemu_img_has(image_dir, qemu_img, verb, fmt, name):
    words = [*verb.split(), fmt, "-o", "help"] + ([image_dir / name] * 2 if name else [])

    def listed(text):
        lines = [line.split(" - ")[0].strip() for line in text.splitlines()]
        return [line for line in lines if not line.startswith("encr") and "." not in line]

    assert listed(blkxact("image", *words).out) == listed(qemu_img(*words))


@pytest.mark.parametrize("mode", ["falloc", "full"])
def test_image_create_gives_raw_images_their_room(image_dir, mode):
    create("-f", "raw", "-o", f"preallocation={mode}", image_dir / "a", "1M")
    stat = (image_dir / "a").stat()
    assert (stat.st_size, stat.st_blocks * 512 >= 1 << 20) == (1 << 20, True)


@pytest.mark.parametrize(
    ("fault", "status", "refusal"),
    [
        ("file.filename=none", 2, "No such file or directory"),
        (
            "file.driver=blkdebug,file.image.filename=a,file.inject-error.0.event=read_aio",
            4,
            "Error while reading offset 0 of ",
        ),
    ],
)
def test_image_compare_that_fails_says_by_its_status_where(
    image_dir, monkeypatch, fault, status, refusal
):
    monkeypatch.chdir(image_dir)
    Path("data").write_bytes(b"x" * 65536)
    assert blkxact("image", "convert", "-f", "raw", "-O", "qcow2", "data", "a").status == 0
    words = ("--image-opts", "driver=raw,file.filename=data", f"driver=qcow2,{fault}")
    assert refusal in assert_refused(blkxact("image", "compare", *words), status=status)


def test_sizes_in_options_may_have_suffixes(image_dir):
    create("-f", "raw", image_dir / "a", "4M")
    options = f"driver=raw,offset=1M,size=0x2000,file.filename={image_dir / 'a'}"
    assert info("--image-opts", options)["virtual-size"] == 8192


@pytest.mark.qemu
@pytest.mark.parametrize(
    "options",
    [
        "driver=qcow2,file.filename=top",
        "file.filename=top",
        "file.driver=file,file.filename=top",
        "driver=file,filename=top",
        "driver=qcow2,file.filename=top,cache.direct=off",
        "filename=top",
        "driver=qcow2",
        "driver=qcow2,filename=top",
        "driver=qcow2,file.driver=raw,file.filename=top",
    ],
)
def test_image_may_be_named_by_options(image_dir, qemu_img, monkeypatch, options):
    monkeypatch.chdir(image_dir)
    qemu_img("create", "-q", "-f", "qcow2", "base", "3M")
    qemu_img("create", "-q", "-f", "qcow2", "-b", "base", "-F", "qcow2", "top")
    words = ("info", "--output", "json", "--image-opts", options)
    theirs = subprocess.run(["qemu-img", *words], capture_output=True, text=True, check=False)
    ours = blkxact("image", *words)
    assert (ours.status, ours.err.removeprefix("blkxact: ")) == (
        theirs.returncode,
        theirs.stderr.removeprefix("qemu-img: "),
    )
    assert json.loads(ours.out or "0") == json.loads(theirs.stdout or "0")


@pytest.mark.parametrize(
    "words",
    [
        "create -f qcow2 a -o cluster_size=4k 1M",
        "create a 1M -f qcow2",
        "convert a -O raw b",
        "convert -O raw a b -f qcow2",
        "resize a --shrink 512k",
        "resize a -512k --shrink",
        "resize --shrink a -512k",
        "resize a +1M",
        "bitmap a --add b",
        "bitmap --add a -g 64k c",
        "compare a -f qcow2 a",
        "snapshot a -c s",
        "rebase a -u -b base -F raw",
    ],
)
def test_options_may_stand_anywhere(image_dir, monkeypatch, words):
    monkeypatch.chdir(image_dir)
    create("-f", "qcow2", "a", "1M")
    done = blkxact("image", *words.split())
    assert (done.status, done.err) == (0, "")


def test_image_create_and_convert_need_names():
    assert assert_refused(blkxact("image", "create")) == "Expecting image file name"
    for words in ((), ("a",)):
        refusal = assert_refused(blkxact("image", "convert", *words))
        assert refusal == "Must specify image file name"


@pytest.mark.qemu
@pytest.mark.parametrize("options", OPTIONS, ids=" ".join)
def test_image_create_makes_what_qemu_img_makes(image_dir, qemu_img, options):
    """The same info from both tools, for images of both tools, and the same bytes."""
    ours, theirs = image_dir / "a", image_dir / "b"
    create(*options, ours, "5M")
    qemu_img("create", "-q", *options, theirs, "5M")
    assert ours.read_bytes() == theirs.read_bytes()
    expected = json.loads(qemu_img("info", "--output", "json", ours))
    shown = info(ours)
    if "raw" in options:
        # A file without data: qemu-img's own has a first block, ours has none.
        expected.pop("dirty-flag")
        shown.pop("dirty-flag", None)
    assert shown == expected
    printed = blkxact("image", "info", theirs).out
    assert sorted(printed.splitlines()) == sorted(qemu_img("info", theirs).splitlines())
