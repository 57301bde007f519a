"""The syntax of option strings, and the words in which bad ones are refused."""

import re
import subprocess

import pytest

from blkxact.cli.keyval import parse_keyval, parse_opts
from blkxact.errors import QmpError
from blkxact.qapi.blockdev import BlockdevOptions
from blkxact.qapi.blockdev_create import BlockdevCreateOptions
from blkxact.qapi.strings import parse_size
from blkxact.qapi.validation import validate_keyval


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", {}),
        ("raw", {"driver": "raw"}),
        ("raw,", {"driver": "raw"}),
        ("raw,file=f", {"driver": "raw", "file": "f"}),
        ("driver=raw,file=f", {"driver": "raw", "file": "f"}),
        ("driver=raw,driver=qcow2", {"driver": "qcow2"}),
        ("driver=a,,b,file=c,,", {"driver": "a,b", "file": "c,"}),
        ("driver=a=b", {"driver": "a=b"}),
        ("driver=", {"driver": ""}),
        ("driver=a.b", {"driver": "a.b"}),
        ("file.driver=file,file.filename=f", {"file": {"driver": "file", "filename": "f"}}),
        ("a.0=x,a.1=y", {"a": ["x", "y"]}),
        ("a.1=y,a.0=x", {"a": ["x", "y"]}),
        ("a.0.b=x,a.0.c=y,a.1.b=z", {"a": [{"b": "x", "c": "y"}, {"b": "z"}]}),
        ("a.0.0=x", {"a": [["x"]]}),
        ("__org.example_a-b=x", {"__org.example_a-b": "x"}),
        ("help=x", {"help": "x"}),
    ],
)
def test_parse_keyval_valid_text_gives_members(text, expected):
    assert parse_keyval(text, "driver") == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", {}),
        (
            "socket,id=c,server,nowait",
            {"backend": "socket", "id": "c", "server": "on", "wait": "off"},
        ),
        ("socket,path=a,,b", {"backend": "socket", "path": "a,b"}),
        ("a,,b", {"backend": "a,b"}),
        ("backend=socket,path=x=y", {"backend": "socket", "path": "x=y"}),
        ("x,server=on,server=off", {"backend": "x", "server": "off"}),
        ("x,readonly", {"backend": "x", "readonly": "on"}),
        ("x,a=", {"backend": "x", "a": ""}),
    ],
)
def test_parse_opts_text_gives_flat_options(text, expected):
    assert parse_opts(text, "backend") == expected


def test_parse_opts_without_implied_key_takes_first_word_for_a_switch():
    assert parse_opts("server,noipv4") == {"server": "on", "ipv4": "off"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("raw,help", "Help is not available for this option"),
        ("a." + "b." * 127 + "c=1", "nested too deeply"),
    ],
)
def test_parse_keyval_what_is_not_given_is_refused(text, message):
    with pytest.raises(QmpError, match=message):
        parse_keyval(text, "driver")


def test_parse_keyval_without_implied_key_wants_an_equals_sign():
    with pytest.raises(QmpError, match=r"^Expected '=' after parameter 'raw'$"):
        parse_keyval("raw")


def test_validate_keyval_texts_get_the_types_of_the_model():
    text = "null-co,size=0x200,read-zeroes=on,latency-ns=-1,cache.direct=off"
    null = validate_keyval(BlockdevOptions, parse_keyval(text, "driver"))
    assert (null.size, null.read_zeroes, null.latency_ns) == (512, True, 2**64 - 1)
    assert null.cache.direct is False


def test_validate_keyval_nested_options_and_lists_get_types():
    text = (
        "blkdebug,image.driver=qcow2,image.file=f,image.lazy-refcounts=yes,align=010,"
        "inject-error.0.event=none,inject-error.0.errno=5,inject-error.0.once=true"
    )
    node = validate_keyval(BlockdevOptions, parse_keyval(text, "driver"))
    assert (node.align, node.image.lazy_refcounts, node.image.file) == (8, True, "f")
    assert (node.inject_error[0].errno, node.inject_error[0].once) == (5, True)


def test_validate_keyval_typed_members_pass():
    node = validate_keyval(BlockdevOptions, {"driver": "null-co", "size": 1, "read-zeroes": True})
    assert (node.size, node.read_zeroes) == (1, True)


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0),
        ("512", 512),
        ("1B", 1),
        ("64k", 65536),
        ("64K", 65536),
        ("1M", 1 << 20),
        ("1.5G", 3 << 29),
        ("1.k", 1024),
        ("1.0", 1),
        ("0.0005k", 1),
        ("0.0004k", 0),
        ("2t", 2 << 40),
        ("1P", 1 << 50),
        ("15E", 15 << 60),
        ("0x10", 16),
        ("0x10k", 16384),
        (" +7", 7),
        ("18446744073709551615", 2**64 - 1),
        ("18446744073709551616", None),
        ("16E", None),
        ("1.5", None),
        ("-1", None),
        ("", None),
        ("k", None),
        (".5k", None),
        ("1e3", None),
        ("1.5e3k", None),
        ("1kk", None),
        ("1 k", None),
        ("0x", None),
        ("0x1.8k", None),
        ("1" * 5000, None),
    ],
)
def test_parse_size_text_is_bytes_or_none(text, size):
    assert parse_size(text) == size


BAD_OPTIONS = [
    ",",
    "=x",
    "a..b=1",
    "a.=1",
    ".a=1",
    "0=1",
    "a.0x=1",
    "a.b!=1",
    "_a=1",
    "a/b",
    "raw,b/c",
    "raw,file",
    "raw,file.driver",
    "x" * 200 + "=1",
    "driver=raw,file." + "x" * 128 + "=1",
    "driver=raw,a.0=1,a.b=2",
    "driver=raw,a.1=1",
    "driver=raw,a.0=1,a.2=1",
    "driver=raw,file.a=1,file=x",
    "driver=raw,file=x,file.a=1",
    "driver=raw,file.a=1,file.a.b=x",
    "driver=raw,file.a.b=1,file.a=x",
    "",
    "raw",
    "nope",
    "driver.a=1",
    "driver=nope,size=x",
    "driver=null-co,size=x",
    "driver=null-co,size=1k",
    "driver=null-co,size=",
    "driver=null-co,size=9223372036854775808",
    "driver=null-co,size=08",
    "driver=null-co,latency-ns=x",
    "driver=null-co,latency-ns=18446744073709551616",
    "driver=null-co,size.a=1",
    "driver=null-co,size.0=1",
    "driver=null-co,read-zeroes=maybe",
    "driver=null-co,read-zeroes=On",
    "driver=null-co,read-zeroes.x=on",
    "driver=null-co,discard=x",
    "driver=null-co,discard.x=y",
    "driver=null-co,cache=x",
    "driver=null-co,cache.direct=x",
    "driver=null-co,cache.x=on",
    "driver=null-co,cache.0=on",
    "driver=null-co,x=1",
    "driver=null-co,x.y=1",
    "driver=null-co,node-name.a=1",
    "driver=raw,file.0=x",
    "driver=raw,file.driver=file",
    "driver=raw,file.driver=file,file.filename=f,file.locking=x",
    "driver=raw,file.driver=file,file.filename=f,file.aio-max-batch=x",
    "driver=raw,file=f,offset=x",
    "driver=nbd,server=x",
    "driver=nbd,server.type=inet,server.host=h,server.port=1,server.to=65536",
    "driver=nbd,server.type=inet,server.host=h,server.port=1,server.to=x",
    "driver=nbd,server.type=inet,server.host=h,server.port=1,server.to=-1",
    "driver=nbd,server.type=unix,server.path=p,reconnect-delay=-1",
    "driver=blkdebug,image=x,inject-error=1",
    "driver=blkdebug,image=x,inject-error.a=1",
    "driver=blkdebug,image=x,inject-error.0=1",
    "driver=blkdebug,image=x,inject-error.0.event=foo",
    "driver=blkdebug,image=x,inject-error.0.event=none,inject-error.0.once=x",
    "driver=blkdebug,image=x,inject-error.0.event=none,inject-error.0.errno=x",
    "driver=blkdebug,image=x,inject-error.0.event=none,inject-error.0.x=x",
    "driver=blkdebug,image=x,inject-error.1.event=none",
    "driver=blkdebug,image=x,take-child-perms.0=foo",
    "driver=blkdebug,image=x,take-child-perms.0.a=foo",
    "driver=blkdebug,image=x,max-transfer=2147483648",
]


@pytest.mark.qemu
@pytest.mark.parametrize("text", BAD_OPTIONS, ids=[text[:60] for text in BAD_OPTIONS])
def test_validate_keyval_bad_text_gives_qemus_error(text, tmp_path):
    pidfile = str(tmp_path / "no-such-folder" / "pidfile")  # it ends, whatever comes of --blockdev
    run = subprocess.run(
        ["qemu-storage-daemon", "--pidfile", pidfile, "--blockdev", text],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    prefix = f"qemu-storage-daemon: --blockdev {text}: "
    with pytest.raises(QmpError) as caught:
        validate_keyval(BlockdevOptions, parse_keyval(text, "driver"))
    assert prefix + caught.value.desc == run.stderr.rstrip("\n")


@pytest.mark.parametrize("text", ["x", "1.5", "16E", ""])
def test_validate_keyval_bad_size_is_refused(text):
    options = parse_keyval(f"file,filename=f,size={text}", "driver")
    with pytest.raises(QmpError, match=re.escape("Parameter 'size' expects size")):
        validate_keyval(BlockdevCreateOptions, options)
