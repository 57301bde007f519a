"""The clients that people use: libnbd's tools, QEMU's tools, fio."""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from .process import Daemon, qcow2, run, server, tool_environment

pytestmark = [pytest.mark.nbd, pytest.mark.qemu]

SIZE = 16 << 20


@pytest.fixture(scope="module")
def template() -> Iterator[Path]:
    """Two layers: 1 MiB at 1 MiB below, 512 KiB at 1.5 MiB above, which the bitmap b0 knows."""
    with tempfile.TemporaryDirectory(prefix="blkxact-") as name:
        base, disk = Path(name, "base.qcow2"), Path(name, "disk.qcow2")
        run("qemu-img", "create", "-q", "-f", "qcow2", base, str(SIZE))
        run("qemu-io", "-f", "qcow2", "-c", "write -P 17 1M 1M", base)
        run("qemu-img", "create", "-q", "-f", "qcow2", "-b", base.name, "-F", "qcow2", disk)
        run("qemu-img", "bitmap", "--add", disk, "b0")
        run("qemu-img", "bitmap", "--add", disk, "b1")
        run("qemu-io", "-f", "qcow2", "-c", "write -P 34 1536k 512k", disk)
        yield Path(name)


@contextlib.contextmanager
def serving(template: Path, directory: Path) -> Iterator[Daemon]:
    shutil.copytree(template, directory, dirs_exist_ok=True)
    words = "nbd,id=e,node-name=disk,writable=on,allocation-depth=on,bitmaps.0=b0,bitmaps.1=b1"
    disk = qcow2("disk", directory / "disk.qcow2", discard="unmap")
    with Daemon(directory, *disk, *server(directory / "python.nbd"), "--export", words) as daemon:
        yield daemon


@pytest.fixture(scope="module")
def still(template: Path) -> Iterator[Daemon]:
    """A daemon for tests that change nothing."""
    with (
        tempfile.TemporaryDirectory(prefix="blkxact-") as name,
        serving(template, Path(name)) as daemon,
    ):
        yield daemon


@pytest.fixture
def daemon(template: Path, image_dir: Path) -> Iterator[Daemon]:
    with serving(template, image_dir) as daemon:
        yield daemon


@pytest.fixture
def image(daemon: Daemon) -> Path:
    return daemon.directory / "disk.qcow2"


@pytest.fixture(scope="module")
def nbdsh() -> Callable[..., str]:
    """Run lines of Python with ``h`` connected and all contexts selected."""

    def shell(daemon: Daemon, *lines: str) -> str:
        contexts = ["base:allocation", "qemu:allocation-depth", "qemu:dirty-bitmap:b0"]
        words = [f"h.add_meta_context({context!r})" for context in contexts]
        words += [f"h.connect_uri({daemon.uri()!r})", *lines]
        return run("nbdsh", "-n", "-c", "import errno", "-c", "h = nbd.NBD()", *_each(words))

    return shell


def _each(lines: list[str]) -> list[str]:
    return [word for line in lines for word in ("-c", line)]


def test_nbdinfo_tells_what_the_export_is(still: Daemon) -> None:
    [told] = json.loads(run("nbdinfo", "--json", still.uri()))["exports"]
    assert told["export-name"] == "disk"
    assert told["export-size"] == SIZE
    assert told["contexts"] == [
        "base:allocation",
        "qemu:allocation-depth",
        "qemu:dirty-bitmap:b0",
        "qemu:dirty-bitmap:b1",
    ]
    assert (told["block_size_minimum"], told["block_size_maximum"]) == (1, 32 << 20)
    can = {name for name, value in told.items() if value is True}
    assert can >= {"can_cache", "can_df", "can_fast_zero", "can_flush", "can_fua", "can_trim"}
    assert "can_multi_conn" in can


def test_nbdinfo_lists_exports(daemon: Daemon) -> None:
    daemon.execute("block-export-add", type="nbd", id="two", node_name="disk", name="two")
    assert run("nbdinfo", "--list", daemon.uri("")).count("export=") == 2


@pytest.mark.parametrize(
    ("context", "expected"),
    [
        ("base:allocation", [(0, 1 << 20, 3), (1 << 20, 1 << 20, 0), (2 << 20, 14 << 20, 3)]),
        (
            "qemu:allocation-depth",
            [(0, 1 << 20, 0), (1 << 20, 1 << 19, 2), (3 << 19, 1 << 19, 1), (2 << 20, 14 << 20, 0)],
        ),
        ("qemu:dirty-bitmap:b0", [(0, 3 << 19, 0), (3 << 19, 1 << 19, 1), (2 << 20, 14 << 20, 0)]),
    ],
)
def test_nbdinfo_maps_every_context(
    still: Daemon, context: str, expected: list[tuple[int, int, int]]
) -> None:
    told = json.loads(run("nbdinfo", "--json", f"--map={context}", still.uri()))
    assert [(entry["offset"], entry["length"], entry["type"]) for entry in told] == expected


def test_nbdcopy_brings_the_disk_out_and_in(daemon: Daemon, image: Path, seeded) -> None:
    out, back = image.with_name("out.raw"), image.with_name("back.raw")
    run("nbdcopy", daemon.uri(), out)
    identical = "Images are identical.\n"
    assert run("qemu-img", "compare", "-U", "-f", "raw", "-F", "qcow2", out, image) == identical
    data = bytearray(seeded.randbytes(SIZE))
    data[5 << 20 : 9 << 20] = bytes(4 << 20)
    back.write_bytes(data)
    run("nbdcopy", "--connections=4", "--requests=32", back, daemon.uri())
    compared = run("qemu-img", "compare", "-f", "raw", "-F", "raw", back, daemon.uri())
    assert compared == identical


def test_qemu_io_and_qemu_img_use_the_export(daemon: Daemon, image: Path) -> None:
    commands = ["write -P 1 3M 64k", "write -f -z 1M 64k", "discard 1536k 64k", "flush"]
    run("qemu-io", "-f", "raw", *_each(commands), daemon.uri())
    reads = ["read -P 1 3M 64k", "read -P 0 1M 64k", "read -P 17 1088k 64k"]
    run("qemu-io", "-f", "raw", *_each(reads), daemon.uri())
    map_ = json.loads(run("qemu-img", "map", "--output=json", "-f", "raw", daemon.uri()))
    assert [entry["start"] for entry in map_ if entry["data"]] == [1088 << 10, 1600 << 10, 3 << 20]
    run("qemu-img", "convert", "-f", "raw", "-O", "qcow2", daemon.uri(), image.with_name("copy"))
    compared = run("qemu-img", "compare", "-U", image, image.with_name("copy"))
    assert "identical" in compared


def test_qemu_img_reads_a_bitmap_as_a_map(still: Daemon) -> None:
    node = f"driver=nbd,server.type=unix,server.path={still.nbd},export=disk"
    words = ["--output=json", "--image-opts", f"{node},x-dirty-bitmap=qemu:dirty-bitmap:b0"]
    dirty = [
        (entry["start"], entry["length"])
        for entry in json.loads(run("qemu-img", "map", *words))
        if not entry["data"]
    ]
    assert dirty == [(3 << 19, 1 << 19)]


def test_libnbd_gets_the_errors_of_the_protocol(still: Daemon, nbdsh: Callable[..., str]) -> None:
    script = f"""
h.set_strict_mode(0)
for request in (lambda: h.pread(10, {SIZE}), lambda: h.pwrite(b"x", {SIZE}),
                lambda: h.pwrite(b"x", 0, nbd.CMD_FLAG_DF), lambda: h.trim(10, {SIZE} - 1)):
    try:
        request()
    except nbd.Error as error:
        print(error.errnum, end=" ")
print(h.pread(1, 0))
"""
    assert nbdsh(still, script) == "22 28 22 22 bytearray(b'\\x00')\n"


def test_libnbd_reads_holes_as_chunks(still: Daemon, nbdsh: Callable[..., str]) -> None:
    script = """
found = []
def chunk(data, offset, status, error):
    found.append((offset >> 10, len(data) >> 10, status))
h.pread_structured(2 << 20, 512 << 10, chunk)
print(found)
"""
    data, hole = 1, 2
    expected = [(512, 512, hole), (1024, 1024, data), (2048, 512, hole)]
    assert nbdsh(still, script) == f"{expected}\n"


def test_libnbd_asks_for_one_extent(still: Daemon, nbdsh: Callable[..., str]) -> None:
    script = f"""
def extent(name, offset, entries, error):
    print(name, entries)
h.block_status({SIZE}, 0, extent, nbd.CMD_FLAG_REQ_ONE)
"""
    assert nbdsh(still, script).splitlines() == [
        "base:allocation [1048576, 3]",
        "qemu:allocation-depth [1048576, 0]",
        "qemu:dirty-bitmap:b0 [1572864, 0]",
    ]


def test_libnbd_in_every_way_of_the_handshake_reads_the_same(
    still: Daemon, nbdsh: Callable[..., str]
) -> None:
    script = """
def words(**how):
    other = nbd.NBD()
    for name, value in how.items():
        getattr(other, name)(value)
    other.set_export_name("disk")
    other.connect_unix(h.get_uri().partition("socket=")[2])
    return other.pread(1 << 19, 3 << 19) == b"\\x22" * (1 << 19)
print(words(), words(set_request_structured_replies=False), words(set_handshake_flags=0),
      words(set_handshake_flags=1), words(set_request_block_size=False))
"""
    assert nbdsh(still, script) == "True True True True True\n"


def test_writes_reach_the_bitmap_while_it_is_exported(
    daemon: Daemon, nbdsh: Callable[..., str]
) -> None:
    nbdsh(daemon, 'h.pwrite(b"x", 8 << 20)', "h.zero(1, 9 << 20)")
    told = json.loads(run("nbdinfo", "--json", "--map=qemu:dirty-bitmap:b0", daemon.uri()))
    assert [entry["offset"] for entry in told if entry["type"]] == [3 << 19, 8 << 20, 9 << 20]
    refusal = daemon.execute("block-dirty-bitmap-clear", node="disk", name="b0")
    assert refusal["desc"].startswith("Bitmap 'b0' is currently in use by another operation")


def test_fio_verifies_what_it_wrote(daemon: Daemon, image: Path) -> None:
    run(
        "fio",
        "--name=verify",
        "--ioengine=nbd",
        f"--uri={daemon.uri()}",
        "--rw=randwrite",
        "--bsrange=512-128k",
        "--size=16m",
        "--iodepth=16",
        "--verify=crc32c",
        "--verify_fatal=1",
        "--randseed=4",
        f"--aux-path={image.parent}",
    )
    assert "No errors" in run("qemu-img", "check", "-U", image)


def test_client_that_is_killed_leaves_the_export_to_others(daemon: Daemon) -> None:
    with subprocess.Popen(
        ["nbdsh", "-u", daemon.uri(), "-c", "print(h.get_size(), flush=True); input()"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=tool_environment(),
    ) as client:
        assert client.stdout is not None
        assert int(client.stdout.readline()) == SIZE
        refusal = daemon.execute("block-export-del", id="e")
        assert refusal["desc"] == "export 'e' still in use"
        client.kill()
    run("nbdinfo", "--size", daemon.uri())
    daemon.execute("block-export-del", id="e", mode="hard")
    assert daemon.hear("BLOCK_EXPORT_DELETED")["data"] == {"id": "e"}
    assert daemon.execute("blockdev-del", node_name="disk") == {}


def test_inet_socket_serves_too(daemon: Daemon) -> None:
    daemon.execute("nbd-server-stop")
    address = {"type": "inet", "data": {"host": "localhost", "port": "0"}}
    assert daemon.execute("nbd-server-start", addr=address) == {}
    refusal = daemon.execute("nbd-server-start", addr=address)
    assert refusal["desc"] == "NBD server already running"
    daemon.execute("nbd-server-stop")
    elsewhere = {"type": "inet", "data": {"host": "0.0.0.0", "port": "0"}}
    refusal = daemon.execute("nbd-server-start", addr=elsewhere)
    assert refusal["desc"] == "'0.0.0.0' is not a loopback address"
