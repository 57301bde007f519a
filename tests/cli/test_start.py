"""What a plain start loads: a client's test-suite starts an emulator a thousand times."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from cli_runs import TIMEOUT
from programs import QUIET, SCRIPTS, SYSTEM, run

from blkxact.commands import COMMANDS
from blkxact.commands.index import INDEX

BLKXACT = str(SCRIPTS / "blkxact")

NEVER = {
    "_hashlib": "only tests ask for checksums",
    "dataclasses": "it compiles the methods of each class; see runtime/record.py",
    "_ssl": "only TLS needs it",
    "fractions": "sizes are whole numbers",
    "importlib.metadata": "nothing looks for plugins",
    "pathlib": "a string will do",
    "pydantic": "values are checked without it",
    "pyroaring": "the first bitmap needs it",
    "qemu.qmp": "it is a client",
    "rich": "only progress bars need it",
    "blkxact.export.exports": "the first export needs it",
    "blkxact.job.job": "the first job needs it",
    "blkxact.qapi.introspect": "few clients ask for the schema",
    "blkxact.storage.tls": "only TLS needs it",
}
"""Modules that no everyday start may load, and who needs them."""
if sys.version_info < (3, 12):  # later ones need inspect to load asyncio and dataclasses
    NEVER |= {"dis": "only errors need inspect", "tokenize": "only errors need lines of source"}
NOT_IN_DAEMONS = {
    "argparse": "the daemons read their words as QEMU does",
    "blkxact.drivers.nbd.driver": "the first NBD node needs it",
    "blkxact.hmp.monitor": "the first human monitor needs it",
    "blkxact.runtime.trace": "only who is told of the steps needs it",
}
NOT_WITHOUT_NODES = {
    "random": "the first node without a name needs it",
    "datetime": "only messages with the time need it",
    "blkxact.block.graph": "the first node needs it",
    "blkxact.drivers.qcow2.driver": "the first qcow2 image needs it",
    "blkxact.machine.devices": "the first device needs it",
    "blkxact.qapi.common": "the first command with arguments needs it",
}
NOT_IN_IMAGE_TOOLS = {
    "blkxact.enums.jobs": "there are no jobs",
    "shutil": "the width of the terminal is known without it",
    "json": "people read no JSON",
    "datetime": "only snapshots have a date",
    "blkxact.block_layer": "there is no emulator",
    "blkxact.qapi.common": "a name needs no schema",
}
LATER = {
    "plain": NEVER | NOT_IN_DAEMONS | NOT_WITHOUT_NODES,
    "node": NEVER | NOT_IN_DAEMONS,
    "image info": NEVER | NOT_IN_IMAGE_TOOLS,
}

PROBE = """
import os, sys
leave = os._exit
def report(status):
    print(*sys.modules, file=sys.stderr, flush=True)
    leave(status)
os._exit = report
import blkxact.__main__ as programs
sys.exit(getattr(programs, sys.argv.pop(1))())
"""
DIALOGUE = [{"execute": "qmp_capabilities"}, {"execute": "query-status"}, {"execute": "quit"}]


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    """The modules that each kind of start has loaded by its end."""
    image = tmp_path_factory.mktemp("start") / "a.qcow2"
    assert run(BLKXACT, "image", "create", "-q", "-f", "qcow2", image, "1M").returncode == 0
    file = {"driver": "file", "filename": str(image), "auto-read-only": True, "discard": "unmap"}
    node = json.dumps({"driver": "qcow2", "node-name": "disk", "file": file})
    disk = ["-blockdev", node, "-device", "virtio-blk-pci,drive=disk"]
    machine = ["-S", "-no-user-config", "-nodefaults", "-display", "none", "-qmp", "stdio"]
    return {
        "plain": _modules("system", *QUIET, "-qmp", "stdio"),
        "node": _modules("system", *machine, *disk),
        "image info": _modules("main", "image", "info", str(image)),
    }


def _modules(program, *words):
    done = subprocess.run(
        [sys.executable, "-c", PROBE, program, *words],
        input="".join(json.dumps(line) for line in DIALOGUE),
        capture_output=True,
        text=True,
        check=False,
        timeout=TIMEOUT,
    )
    assert done.returncode == 0, done
    return set(done.stderr.split())


@pytest.mark.parametrize(
    ("kind", "module"), [(kind, module) for kind, modules in LATER.items() for module in modules]
)
def test_start_does_not_load(loaded, kind, module):
    assert module not in loaded[kind], LATER[kind][module]


def test_starts_load_what_they_run(loaded):
    assert {"asyncio", "blkxact.daemon", "blkxact.commands.run_state"} <= loaded["plain"]
    assert {"blkxact.drivers.qcow2.driver", "blkxact.machine.devices"} <= loaded["node"]
    assert {"blkxact.drivers.qcow2.driver", "blkxact.cli.image_info"} <= loaded["image info"]


@pytest.mark.parametrize("verb", ["info", "check", "map", "compare", "resize", "snapshot"])
def test_image_verbs_load_neither_schema_nor_tls(verb):
    program = (
        "import sys; from blkxact.runtime.start import load_lazily; load_lazily();"
        f"import blkxact.cli.main, blkxact.cli.image_{verb}, blkxact.drivers.qcow2.driver;"
        "print({'blkxact.qapi.common', '_ssl'} & set(sys.modules))"
    )
    done = run(sys.executable, "-c", program)
    assert done.stdout == "set()\n"


def test_index_says_where_every_command_is():
    """A command that it lacks is found as well, but with all modules loaded."""
    found = {}
    for name, command in COMMANDS.items():
        module = command.handler.__module__.rpartition(".")[2]
        found.setdefault(module, set()).add(name)
    listed = {name: module for module, names in INDEX.items() for name in names.split()}
    missing = {
        module: sorted(names - listed.keys())
        for module, names in found.items()
        if module != "without_guest" and names - listed.keys()
    }
    assert missing == {}
    assert listed.keys() <= set(COMMANDS)


def test_modules_that_come_later_come_when_they_are_used():
    program = """
from blkxact.runtime.start import load_lazily
load_lazily()
import asyncio, ssl, sys
assert "_ssl" not in sys.modules
import ssl as again
assert isinstance(again.create_default_context(), ssl.SSLContext)
assert asyncio.selector_events.sslproto.SSLProtocol.__module__ == "asyncio.sslproto"
import argparse, gettext, textwrap
assert isinstance(gettext.NullTranslations(), object)
assert textwrap.dedent("  a") == "a"
print("well")
"""
    done = run(sys.executable, "-c", program)
    assert done.stdout == "well\n", done.stderr


def test_version_is_printed_without_the_daemon():
    program = "import sys; from blkxact.__main__ import system; sys.exit(system())"
    done = run(sys.executable, "-X", "importtime", "-c", program, "-version")
    assert "blkxact.cli.system_line" in done.stderr
    assert "asyncio" not in done.stderr
    assert run(SYSTEM, "-version").returncode == 0
