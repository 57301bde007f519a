"""Certificates that are made for a test, and the options that use them."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from .process import run

DISK = "null-co,node-name=disk,size=1048576,read-zeroes=on"


def openssl(*words: str | Path) -> None:
    run("openssl", *words)


def sign(directory: Path, name: str, extension: str) -> None:
    key, request = directory / f"{name}-key.pem", directory / f"{name}.csr"
    new = ["req", "-newkey", "rsa:2048", "-nodes", "-keyout", key, "-out", request]
    openssl(*new, "-subj", f"/CN={name}")
    extensions = directory / f"{name}.ext"
    extensions.write_text(extension)
    authority = ["-CA", directory / "ca-cert.pem", "-CAkey", directory / "ca-key.pem"]
    more = ["-CAcreateserial", "-days", "2", "-extfile", extensions]
    openssl(
        "x509", "-req", "-in", request, *authority, *more, "-out", directory / f"{name}-cert.pem"
    )


@pytest.fixture(scope="module")
def pki() -> Iterator[Path]:
    """A directory with a CA, a server's and a client's certificate."""
    with tempfile.TemporaryDirectory(prefix="blkxact-") as name:
        directory = Path(name)
        key, cert = directory / "ca-key.pem", directory / "ca-cert.pem"
        new = ["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=ca"]
        usage = ["-addext", "keyUsage=critical,keyCertSign"]
        openssl(*new, *usage, "-keyout", key, "-out", cert)
        sign(directory, "server", "subjectAltName=DNS:localhost\nextendedKeyUsage=serverAuth\n")
        sign(directory, "client", "extendedKeyUsage=clientAuth\n")
        yield directory


def credentials(directory: Path, **more: str) -> list[str]:
    members = {"id": "tls", "dir": str(directory), "endpoint": "server", **more}
    return ["--object", "tls-creds-x509," + ",".join(f"{k}={v}" for k, v in members.items())]
