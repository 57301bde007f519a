"""The same nodes in blkxact and in QEMU's storage daemon: replies and queries must agree."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from .peers import Peer, qemu_nbd
from .process import QEMU, Daemon

pytestmark = pytest.mark.qemu

MIB = 1 << 20


@pytest.fixture
def daemons(image_dir: Path) -> Iterator[tuple[Daemon, Daemon]]:
    with Daemon(image_dir) as ours, Daemon(image_dir, program=QEMU) as theirs:
        yield ours, theirs


@pytest.fixture
def peer(image_dir: Path) -> Iterator[Peer]:
    disk = image_dir / "disk.raw"
    disk.write_bytes(bytes(MIB))
    with qemu_nbd(image_dir, "-f", "raw", "-x", "disk", disk) as peer:
        yield peer


def inet(host: str, port: str, **more: Any) -> dict[str, Any]:
    return {"type": "inet", "host": host, "port": port, **more}


def nodes(peer: Peer) -> list[dict[str, Any]]:
    """Return arguments of blockdev-add, for nodes that can be opened and for those that cannot."""
    server = peer.address
    return [
        {"server": server, "export": "disk"},
        {"server": server, "export": "disk", "read-only": True, "reconnect-delay": 5},
        {"server": {**server, "abstract": False, "tight": True}, "export": "disk"},
        {"server": server, "export": "disk", "x-dirty-bitmap": "base:allocation"},
        {"server": server, "export": "nope"},
        {"server": server},
        {"server": server, "export": "disk", "tls-creds": "nope"},
        {"server": server, "export": "d" * 4097},
        {"server": server, "export": "disk", "x-dirty-bitmap": "n" * 4097},
        {"server": server, "export": "disk", "open-timeout": 1},
        {"server": {**server, "abstract": True}},
        {"server": {"type": "unix", "path": "/nonexistent"}},
        {"server": {"type": "unix", "path": "/" + "x" * 110}},
        {"server": inet("127.0.0.1", "1")},
        {"server": inet("127.0.0.1", "1", ipv4=False, ipv6=False)},
        {"server": inet("nonexistent.invalid", "1")},
        {"server": inet("127.0.0.1", "nosuchservice")},
        {"server": {"type": "unix"}},
        {"export": "disk"},
    ]


def test_nodes_and_refusals_are_those_of_qemu(daemons: tuple[Daemon, Daemon], peer: Peer) -> None:
    for members in nodes(peer):
        said = [add_and_look(daemon, members) for daemon in daemons]
        assert said[0] == said[1], members


def add_and_look(daemon: Daemon, members: dict[str, Any]) -> Any:
    """Return the node as queries tell of it, or the refusal."""
    reply = daemon.execute("blockdev-add", driver="nbd", node_name="n", **members)
    if "desc" in reply:
        return reply
    (node,) = daemon.execute("query-named-block-nodes", flat=True)
    assert daemon.execute("blockdev-del", node_name="n") == {}
    return node


def test_read_only_export_is_refused_or_taken_as_by_qemu(
    daemons: tuple[Daemon, Daemon], image_dir: Path
) -> None:
    disk = image_dir / "disk.raw"
    disk.write_bytes(bytes(MIB))
    with qemu_nbd(image_dir, "-r", "-f", "raw", disk) as peer:
        for more in ({"auto_read_only": True}, {"read_only": True}):
            said = [add_and_look(d, {"server": peer.address, **more}) for d in daemons]
            assert said[0] == said[1]
            assert said[0]["ro"] is True
        # QEMU knows the reason, but does not say it.
        ours, theirs = (add_and_look(daemon, {"server": peer.address}) for daemon in daemons)
        assert ours["desc"] == "NBD export is read-only"
        assert theirs["desc"] == "Could not open image: Permission denied"


def test_addresses_that_are_not_served_are_refused_clearly(image_dir: Path) -> None:
    with Daemon(image_dir) as daemon:
        for server in ({"type": "vsock", "cid": "1", "port": "2"},):
            said = daemon.execute("blockdev-add", driver="nbd", node_name="n", server=server)
            text = f"Parameter 'type' does not accept value '{server['type']}'"
            assert said["desc"] == text
