"""What a plain start loads: a client's test-suite starts an emulator a thousand times."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from test_programs import QUIET, SYSTEM, run

from blkxact.commands import COMMANDS
from blkxact.commands.index import INDEX

LATER = {
    "_ssl": "only TLS needs it",
    "argparse": "the daemons read their words as QEMU does",
    "importlib.metadata": "nothing looks for plugins",
    "pyroaring": "the first bitmap needs it",
    "random": "the first node without a name needs it",
    "rich": "only progress bars need it",
    "qemu.qmp": "it is a client",
    "datetime": "only messages with the time need it",
    "pathlib": "a string will do",
    "blkxact.block.graph": "the first node needs it",
    "blkxact.drivers.qcow2.driver": "the first qcow2 image needs it",
    "blkxact.export.exports": "the first export needs it",
    "blkxact.hmp.monitor": "the first human monitor needs it",
    "blkxact.job.job": "the first job needs it",
    "blkxact.machine.devices": "the first device needs it",
    "blkxact.qapi.common": "the first command with arguments needs it",
    "blkxact.qapi.introspect": "few clients ask for the schema",
}
"""Modules that a plain start must not load, and who needs them."""

PROBE = """
import atexit, json, sys
atexit.register(lambda: print(json.dumps(sorted(sys.modules)), file=sys.stderr))
from blkxact.__main__ import system
sys.exit(system())
"""
DIALOGUE = [{"execute": "qmp_capabilities"}, {"execute": "query-status"}, {"execute": "quit"}]


@pytest.fixture(scope="module")
def loaded():
    """The modules that a start, a query and ``quit`` have loaded."""
    done = subprocess.run(
        [sys.executable, "-c", PROBE, *QUIET, "-qmp", "stdio"],
        input="".join(json.dumps(line) for line in DIALOGUE),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done
    assert [json.loads(line) for line in done.stdout.splitlines()][2]["return"]["running"]
    return set(json.loads(done.stderr))


@pytest.mark.parametrize("module", LATER)
def test_plain_start_does_not_load(loaded, module):
    assert module not in loaded, LATER[module]


def test_plain_start_loads_what_it_runs(loaded):
    assert {"asyncio", "blkxact.daemon", "blkxact.commands.run_state"} <= loaded


@pytest.mark.parametrize("verb", ["info", "check", "map", "compare", "resize", "snapshot"])
def test_image_verbs_load_neither_schema_nor_tls(verb):
    program = (
        "import sys; from blkxact.runtime.lazy import load_lazily; load_lazily();"
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
from blkxact.runtime.lazy import load_lazily
load_lazily()
import asyncio, ssl, sys
assert "_ssl" not in sys.modules
import ssl as again
assert isinstance(again.create_default_context(), ssl.SSLContext)
assert asyncio.selector_events.sslproto.SSLProtocol.__module__ == "asyncio.sslproto"
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
