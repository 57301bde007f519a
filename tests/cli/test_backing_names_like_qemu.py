"""What an image may name as its backing file: QEMU opens it, or blkxact refuses it too."""

from __future__ import annotations

import subprocess

import pytest
from cli_runs import blkxact
from image_tools import new_image

NBD = '{"driver":"nbd","server":{"type":"unix","path":"/nonexistent"}}'
NAMES = [
    ("raw", f"json:{NBD}"),
    ("raw", 'json:{"driver":"raw"}'),
    ("raw", 'json:{"driver":"null-co"}'),
    ("raw", 'json:{"driver":"null-co","size":9223372036854775807}'),
    ("raw", 'json:{"driver":"file","filename":"DIR/base.raw"}'),
    ("raw", 'json:{"driver":"qcow2","file":{"driver":"file","filename":"DIR/base.raw"}}'),
    ("raw", 'json:{"driver":"raw","file":{"driver":"null-co","size":9223372036854775807}}'),
    ("raw", 'json:{"driver":"raw","file":{"driver":"null-co","size":9223372036854710272}}'),
    ("raw", 'json:{"driver":"raw","file":{"driver":"null-co","size":-1}}'),
    ("raw", 'json:{"driver":"raw","file":{"driver":"null-co","size":"1G"}}'),
    ("raw", 'json:{"file":{"driver":"null-co"}}'),
    ("raw", 'json:{"filename":"DIR/base.raw"}'),
    ("raw", 'json:{"file.filename":"DIR/base.raw"}'),
    ("raw", "json:{}"),
    ("raw", "json:[]"),
    ("raw", "json:{"),
    ("raw", 'json:{"driver":"blkdebug","image":{"driver":"null-co"}}'),
    ("raw", f'json:{{"driver":"raw","file":{NBD}}}'),
    ("raw", 'json:{"driver":"raw","offset":512}'),
    ("raw", 'json:{"driver":"raw","file":"no-node"}'),
    ("raw", 'json:{"driver":"copy-before-write"}'),
    ("raw", 'json:{"driver":"qcow2","file.filename":"DIR/base.raw"}'),
    ("qcow2", 'json:{"driver":"null-co"}'),
    ("qcow2", 'json:{"driver":"file","filename":"DIR/base.qcow2"}'),
    ("qcow2", f"json:{NBD}"),
    ("qcow2", 'json:{"file":{"driver":"file","filename":"DIR/base.qcow2"}}'),
    ("qcow2", "base.raw"),
    ("file", 'json:{"driver":"null-co"}'),
    ("file", "base.raw"),
    ("raw", "nbd+unix:///x?socket=/nonexistent"),
    ("raw", "null-co://"),
    ("raw", "null-co://x"),
    ("raw", "file:DIR/base.raw"),
    ("raw", "base.raw"),
    ("raw", "nothing.raw"),
    ("raw", "/proc/self/status"),
    ("raw", "/proc/cpuinfo"),
    ("raw", "DIR"),
    ("raw", "/dev/tty"),
    ("raw", "http://localhost:1/"),
    ("raw", "ssh://localhost/x"),
    ("raw", "fd:0"),
    ("raw", "raw:base.raw"),
    ("raw", "blkverify:DIR/base.raw:DIR/base.raw"),
]
STRICTER = [
    ("raw", "/dev/null"),
    ("raw", "/dev/zero"),
    ("raw", "fat:DIR"),
]
"""What QEMU opens and blkxact does not; docs/differences-from-qemu.md lists it."""
VERBS = [
    ("info", "--backing-chain"),
    ("map", "--output=json"),
    ("compare", "-F", "qcow2", "TOP"),
    ("convert", "-O", "raw", "OUT"),
]
ALONE = [("info",), ("check",), ("snapshot", "-l")]
"""Verbs that look at the image alone and open no backing file; of these QEMU's last two do."""


@pytest.fixture
def base_dir(image_dir):
    """A directory with files that images can name."""
    (image_dir / "base.raw").write_bytes(b"x" * 65536)
    new_image(image_dir / "base.qcow2", "64k")
    return image_dir


def overlay(directory, fmt, name):
    """Make an image that names its backing file so; return its path."""
    top = directory / "top"
    words = ["create", "-q", "-f", "qcow2", "-u", "-F", fmt, "-b", name, str(top), "64k"]
    subprocess.run(["qemu-img", *words], check=True)
    return top


def runs(directory, verb, top):
    """Return whether blkxact and qemu-img do the verb, and what blkxact says."""
    name, *words = verb
    places = {"TOP": str(top), "OUT": str(directory / "out")}
    if name == "convert":
        words = [*words[:-1], str(top), places["OUT"]]
    else:
        words = [*(places.get(word, word) for word in words), str(top)]
    ours = blkxact("image", name, *words)
    theirs = subprocess.run(["qemu-img", name, *words], check=False, capture_output=True, text=True)
    return ours.status == 0, theirs.returncode == 0, (verb, ours, theirs)


@pytest.mark.qemu
@pytest.mark.parametrize(("fmt", "name"), NAMES)
def test_backing_name_is_opened_exactly_where_qemu_opens_it(base_dir, fmt, name):
    top = overlay(base_dir, fmt, name.replace("DIR", str(base_dir)))
    for verb in VERBS:
        ours, theirs, what = runs(base_dir, verb, top)
        assert ours == theirs, what
    for verb in ALONE:
        ours, _, what = runs(base_dir, verb, top)
        assert ours, what


@pytest.mark.qemu
@pytest.mark.parametrize(("fmt", "name"), STRICTER)
def test_backing_name_that_is_listed_as_refused_is_never_opened(base_dir, fmt, name):
    top = overlay(base_dir, fmt, name.replace("DIR", str(base_dir)))
    for verb in VERBS:
        ours, theirs, what = runs(base_dir, verb, top)
        assert (ours, theirs) == (False, True), what


@pytest.mark.qemu
@pytest.mark.parametrize(
    ("fmt", "name", "text"),
    [
        ("raw", f"json:{NBD}", 'A block device must be specified for "file"'),
        ("file", 'json:{"driver":"null-co"}', "The 'file' block driver requires a file name"),
        ("qcow2", 'json:{"driver":"qcow2","file":{"driver":"no"}}', "Unknown driver 'no'"),
        ("raw", "/proc/self/status", "Could not refresh total sector count: Invalid argument"),
        (
            "raw",
            'json:{"driver":"raw","file":{"driver":"null-co","size":9223372036854775807}}',
            "Could not refresh total sector count: File too large",
        ),
    ],
)
def test_backing_name_is_refused_in_the_words_of_qemu(base_dir, fmt, name, text):
    top = overlay(base_dir, fmt, name)
    _, _, (_, ours, theirs) = runs(base_dir, ("info", "--backing-chain"), top)
    assert text in theirs.stderr
    assert text in ours.err
