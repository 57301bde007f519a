"""The client driver over TLS and over TCP: with nbdkit, qemu-nbd and our own server."""

from __future__ import annotations

import shutil
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from .certificates import DISK, credentials, sign
from .peers import NBDKIT, Peer, nbdkit, qemu_nbd
from .process import Daemon, run, server

pytestmark = [pytest.mark.nbd, pytest.mark.qemu]


@pytest.fixture
def client(pki: Path, image_dir: Path) -> Iterator[Daemon]:
    """A daemon with a client's credentials, ``tls``, and those of somebody unknown, ``none``."""
    stranger = image_dir / "stranger"
    stranger.mkdir()
    shutil.copy(pki / "ca-cert.pem", stranger)
    words = credentials(pki, endpoint="client")
    words += credentials(stranger, id="none", endpoint="client")
    words += credentials(pki, id="server")
    with Daemon(image_dir, *words) as daemon:
        yield daemon


def add(client: Daemon, peer: Peer, **options: str) -> dict[str, str]:
    """Return the reply to blockdev-add."""
    members = {"tls_creds": "tls", "tls_hostname": "localhost", **options}
    given = {name: value for name, value in members.items() if value}
    return client.execute("blockdev-add", driver="nbd", node_name="n", server=peer.address, **given)


def write_and_read(client: Daemon) -> None:
    """Let the guest write to the node and read it."""
    for line in ("write -P 5 0 1M", "read -P 5 0 1M"):
        said = client.execute("human-monitor-command", command_line=f'qemu-io n "{line}"')
        assert not isinstance(said, dict), said


def kit(directory: Path, pki: Path, *words: str, name: str = "kit") -> Peer:
    options = [f"--tls-certificates={pki}", "--tls-verify-peer", *words, "memory", "1M"]
    return nbdkit(directory, *options, name=name)


def test_export_is_used_over_tls(client: Daemon, image_dir: Path, pki: Path) -> None:
    with kit(image_dir, pki, "--tls=require") as peer:
        assert add(client, peer) == {}
        write_and_read(client)
        assert client.execute("blockdev-del", node_name="n") == {}


def test_refusals_of_tls_tell_why(client: Daemon, image_dir: Path, pki: Path) -> None:
    with kit(image_dir, pki, "--tls=require") as peer:
        reasons = {
            "Certificate does not match the hostname otherhost": {"tls_hostname": "otherhost"},
            "No hostname for certificate validation": {"tls_hostname": ""},
            "No TLS credentials with id 'nope'": {"tls_creds": "nope"},
            "Expected TLS credentials for a client endpoint": {"tls_creds": "server"},
        }
        for text, options in reasons.items():
            assert add(client, peer, **options)["desc"] == text
        assert "TLS negotiation required" in add(client, peer, tls_creds="")["desc"]
        assert "desc" in add(client, peer, tls_creds="none")
        assert add(client, peer) == {}
    with kit(image_dir, pki, "--tls=off", name="plain") as peer:
        client.execute("blockdev-del", node_name="n")
        assert "starttls" in add(client, peer)["desc"].lower()


def test_server_of_another_authority_is_not_trusted(
    client: Daemon, image_dir: Path, pki: Path
) -> None:
    other = image_dir / "other"
    other.mkdir()
    run("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj",
        "/CN=ca2", "-addext", "keyUsage=critical,keyCertSign",
        "-keyout", other / "ca-key.pem", "-out", other / "ca-cert.pem")  # fmt: skip
    sign(other, "server", "subjectAltName=DNS:localhost\nextendedKeyUsage=serverAuth\n")
    words = [f"--tls-certificates={other}", "--tls=require", "memory", "1M"]
    with nbdkit(image_dir, *words) as peer:
        assert add(client, peer)["desc"] == "The certificate hasn't got a known issuer"


def test_qemu_nbd_and_our_server_are_used_over_tls(
    client: Daemon, image_dir: Path, pki: Path
) -> None:
    disk = image_dir / "disk.raw"
    disk.write_bytes(bytes(1 << 20))
    creds = f"tls-creds-x509,id=t,endpoint=server,dir={pki},verify-peer=on"
    words = ["--object", creds, "--tls-creds", "t", "-f", "raw", "-x", "", disk]
    with qemu_nbd(image_dir, *words) as peer:
        assert add(client, peer) == {}
        write_and_read(client)
        client.execute("blockdev-del", node_name="n")
    directory = image_dir / "directory"
    directory.mkdir()
    listen = server(directory / "python.nbd")
    listen[-1] += ",tls-creds=tls"
    export = ["--export", "nbd,id=e,node-name=disk,name=,writable=on"]
    with Daemon(directory, *credentials(pki), "--blockdev", DISK, *listen, *export) as ours:
        peer = Peer(ours.nbd, ("true",))
        assert add(client, peer) == {}
        client.execute("blockdev-del", node_name="n")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_export_is_used_over_tcp_by_its_name(client: Daemon, image_dir: Path) -> None:
    port = free_port()
    program = (*NBDKIT[:-1], "--ipaddr", "127.0.0.1", "--port")
    words = ("memory", "1M")
    with Peer(image_dir / "tcp", program, *words, port=port) as peer:
        given = {"driver": "nbd", "node_name": "n", "server": peer.address}
        assert client.execute("blockdev-add", **given) == {}
        write_and_read(client)
