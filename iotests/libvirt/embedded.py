"""Run a program on the embedded libvirt: it registers the event loop that this needs.

``embedded.py URI PROGRAM ARGUMENTS…``

The process ends only when libvirt has settled the backups of all domains. ``abortJob`` returns
before that. When libvirtd goes on running, nothing is lost; an embedded libvirt would end with the
program, leave the backup in its records as running, and wait for its end in vain when it is opened
again ("cannot acquire state change lock (held by monitor=init-guest)").
"""

from __future__ import annotations

import runpy
import sys
import threading

import libvirt
from session import until


def _serve_events() -> None:
    while True:
        libvirt.virEventRunDefaultImpl()


def _no_jobs(connection: libvirt.virConnect) -> bool:
    """Return whether no domain has a job."""
    domains = connection.listAllDomains(libvirt.VIR_CONNECT_LIST_DOMAINS_ACTIVE)
    return all(domain.jobInfo()[0] == libvirt.VIR_DOMAIN_JOB_NONE for domain in domains)


def main() -> None:
    """Run the program."""
    uri, *words = sys.argv[1:]
    libvirt.virEventRegisterDefaultImpl()
    threading.Thread(target=_serve_events, daemon=True).start()
    connection = libvirt.open(uri)
    sys.argv = words
    try:
        runpy.run_path(words[0], run_name="__main__")
    finally:
        until(lambda: _no_jobs(connection))


if __name__ == "__main__":
    main()
