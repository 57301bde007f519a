"""TLS with certificates made here, against libnbd's and QEMU's clients."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from .certificates import DISK, credentials, openssl
from .process import QEMU, Daemon, run, server, tool_environment

pytestmark = [pytest.mark.nbd, pytest.mark.qemu]


@pytest.fixture
def daemon(pki: Path, image_dir: Path) -> Iterator[Daemon]:
    listen = server(image_dir / "python.nbd")
    listen[-1] += ",tls-creds=tls"
    words = [*credentials(pki), "--blockdev", DISK, *listen, "--export", "nbd,id=e,node-name=disk"]
    with Daemon(image_dir, *words) as daemon:
        yield daemon


def libnbd(daemon: Daemon, pki: Path, *, status: int = 0, export: str = "disk") -> str:
    uri = f"{daemon.uri(export, 'nbds')}&tls-certificates={pki}&tls-hostname=localhost"
    script = (
        f"h.set_uri_allow_local_file(True); h.connect_uri({uri!r}); print(len(h.pread(70000, 5)))"
    )
    return run("nbdsh", "-c", script, status=status)


def test_client_with_a_certificate_reads_over_tls(daemon: Daemon, pki: Path) -> None:
    assert libnbd(daemon, pki) == "70000\n"
    channel = f"driver=nbd,path={daemon.nbd},export=disk,tls-creds=t,tls-hostname=localhost"
    creds = f"tls-creds-x509,id=t,dir={pki},endpoint=client"
    words = ["--object", creds, "--image-opts", "-c", "read -P 0 0 1M", channel]
    assert "read 1048576/1048576" in run("qemu-io", "-r", *words)


def test_client_without_tls_is_refused_before_anything(daemon: Daemon) -> None:
    refusal = run("nbdinfo", daemon.uri(), status=1)
    assert "TLS" in refusal
    assert "error to list request" in run("nbdinfo", "--list", daemon.uri(""), status=1)


def test_client_without_a_certificate_is_refused(
    daemon: Daemon, pki: Path, image_dir: Path
) -> None:
    stranger = image_dir / "stranger"
    stranger.mkdir()
    (stranger / "ca-cert.pem").write_bytes((pki / "ca-cert.pem").read_bytes())
    libnbd(daemon, stranger, status=1)
    assert libnbd(daemon, pki) == "70000\n"


def test_client_that_breaks_off_the_handshake_of_tls_disturbs_nobody(
    daemon: Daemon, pki: Path
) -> None:
    script = (
        "import socket,sys; s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]); s.recv(18);"
        "s.sendall(b'\\0\\0\\0\\3IHAVEOPT\\0\\0\\0\\5\\0\\0\\0\\0'); print(s.recv(20)[8:]);"
        "s.sendall(b'\\x16\\3\\1'); s.sendall(b'GET /'); print(s.recv(1 << 16)[:0])"
    )
    said = run("python3", "-c", script, daemon.nbd)
    assert said.startswith("b'\\x00\\x00\\x00\\x05\\x00\\x00\\x00\\x01")
    assert libnbd(daemon, pki) == "70000\n"
    daemon.execute("qmp_capabilities")
    assert daemon.execute("block-export-del", id="e") == {}


def test_server_that_does_not_verify_takes_anyone(pki: Path, image_dir: Path) -> None:
    listen = server(image_dir / "python.nbd")
    listen[-1] += ",tls-creds=tls"
    words = [*credentials(pki, **{"verify-peer": "off"}), "--blockdev", DISK, *listen]
    stranger = image_dir / "stranger"
    stranger.mkdir()
    (stranger / "ca-cert.pem").write_bytes((pki / "ca-cert.pem").read_bytes())
    with Daemon(image_dir, *words, "--export", "nbd,id=e,node-name=disk") as daemon:
        assert libnbd(daemon, stranger) == "70000\n"


def test_large_transfers_over_tls_arrive_whole(pki: Path, image_dir: Path, seeded) -> None:
    disk, back = image_dir / "disk.raw", image_dir / "back.raw"
    disk.write_bytes(seeded.randbytes(8 << 20))
    listen = server(image_dir / "python.nbd")
    listen[-1] += ",tls-creds=tls"
    node = f"file,node-name=disk,filename={disk}"
    export = "nbd,id=e,node-name=disk,writable=on"
    with Daemon(
        image_dir, *credentials(pki), "--blockdev", node, *listen, "--export", export
    ) as it:
        uri = f"{it.uri('disk', 'nbds')}&tls-certificates={pki}&tls-hostname=localhost"
        run("nbdcopy", uri, back)
        assert back.read_bytes() == disk.read_bytes()
        back.write_bytes(seeded.randbytes(8 << 20))
        run("nbdcopy", back, uri)
        assert back.read_bytes() == disk.read_bytes()


CREDENTIALS = [
    {"dir": "/nonexistent", "endpoint": "server"},
    {"endpoint": "server"},
    {"dir": "/nonexistent", "endpoint": "both"},
]


def test_credentials_without_sense_are_refused_as_by_qemu(pki: Path, image_dir: Path) -> None:
    address = {"type": "unix", "data": {"path": str(image_dir / "any.nbd")}}
    with Daemon(image_dir) as ours, Daemon(image_dir, program=QEMU) as theirs:
        for daemon in (ours, theirs):
            client = {"qom_type": "tls-creds-x509", "id": "client", "dir": str(pki)}
            assert daemon.execute("object-add", **client) == {}
            assert daemon.execute("object-add", qom_type="iothread", id="thread") == {}
        for members in CREDENTIALS:
            words = {"qom_type": "tls-creds-x509", "id": "t", **members}
            assert ours.execute("object-add", **words) == theirs.execute("object-add", **words)
        for name in ("nope", "thread", "client"):
            words = {"addr": address, "tls_creds": name}
            said = ours.execute("nbd-server-start", **words)
            assert "desc" in said
            assert said == theirs.execute("nbd-server-start", **words)


def test_authorization_by_object_is_refused_clearly(image_dir: Path) -> None:
    address = {"type": "unix", "data": {"path": str(image_dir / "any.nbd")}}
    with Daemon(image_dir) as daemon:
        said = daemon.execute("nbd-server-start", addr=address, tls_authz="authz0")
    assert "tls-authz" in said["desc"]


def test_key_with_a_password_is_refused_without_asking(pki: Path, image_dir: Path) -> None:
    locked = image_dir / "locked"
    locked.mkdir()
    for name in ("ca-cert.pem", "server-cert.pem"):
        (locked / name).write_bytes((pki / name).read_bytes())
    key = locked / "server-key.pem"
    openssl("pkey", "-in", pki / "server-key.pem", "-aes256", "-passout", "pass:x", "-out", key)
    members = {"qom_type": "tls-creds-x509", "id": "t", "endpoint": "server", "dir": str(locked)}
    with Daemon(image_dir) as daemon:
        said = daemon.execute("object-add", **members)
    assert said["desc"].startswith(f"Cannot load certificate '{locked}/server-cert.pem'")


def test_nbdsh_is_there() -> None:
    assert (
        subprocess.run(["nbdsh", "--version"], env=tool_environment(), check=False).returncode == 0
    )
