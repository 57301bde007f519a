"""TLS with X.509 certificates, from the files of a directory.

The names of the files are QEMU's: ``ca-cert.pem``, ``ca-crl.pem`` (may be missing), and
``server-cert.pem`` with ``server-key.pem`` or ``client-cert.pem`` with ``client-key.pem`` (a client
may have none).

QEMU's counterpart: ``crypto/tlscredsx509.c``, whose words the errors are as far as they come from
files.
"""

from __future__ import annotations

import os
import ssl
from pathlib import Path

from blkxact.errors import QmpError, strerror
from blkxact.qapi.qom import TlsCredsX509Properties


def x509_context(credentials: TlsCredsX509Properties) -> ssl.SSLContext:
    """Return what encrypts connections with these credentials; raises ``QmpError``.

    A server with ``verify-peer`` takes only clients with a certificate of its CA. A client's
    context checks the name of the server, which the caller gives to the handshake.
    """
    for member in ("passwordid", "priority"):
        if getattr(credentials, member) is not None:
            raise QmpError(f"Parameter '{member}' is not supported")
    if credentials.dir is None:
        raise QmpError("Missing 'dir' property value")
    server = credentials.endpoint == "server"
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if server else ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    directory = Path(credentials.dir)
    _load_ca(context, directory)
    _load_own(context, directory, "server" if server else "client", optional=not server)
    if credentials.verify_peer:
        context.verify_mode = ssl.CERT_REQUIRED
    elif not server:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def _load_own(context: ssl.SSLContext, directory: Path, who: str, *, optional: bool) -> None:
    certificate, key = directory / f"{who}-cert.pem", directory / f"{who}-key.pem"
    if optional and not certificate.exists():
        return
    _check_readable(certificate)
    _check_readable(key)
    try:
        # A key with a password must not make OpenSSL ask at the terminal.
        context.load_cert_chain(certificate, key, password=lambda: "")
    except (ssl.SSLError, ValueError) as error:
        text = f"Cannot load certificate '{certificate}' & key '{key}': {error}"
        raise QmpError(text) from error


def _load_ca(context: ssl.SSLContext, directory: Path) -> None:
    certificate, revoked = directory / "ca-cert.pem", directory / "ca-crl.pem"
    _check_readable(certificate)
    try:
        context.load_verify_locations(certificate)
        if revoked.exists():
            context.load_verify_locations(revoked)
            context.verify_flags |= ssl.VERIFY_CRL_CHECK_LEAF
    except ssl.SSLError as error:
        raise QmpError(f"Unable to import CA certificate list {certificate}") from error


def _check_readable(path: Path) -> None:
    try:
        with path.open("rb"):
            return
    except OSError as error:
        text = f"Unable to access credentials {os.fspath(path)}: {strerror(error)}"
        raise QmpError(text) from error
