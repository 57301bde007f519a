"""A mistake in a marker is one line that names the argument, and the test does not run."""

from __future__ import annotations

import pytest

pytest_plugins = "pytester"

OPTIONS = ("-p", "no:asyncio", "-p", "no:cacheprovider", "--strict-markers", "--tb=short")

BLKXACT = [
    ('emulate="1.0"', "emulate='1.0': there are *7.2*"),
    ('completion_mode="x"', "completion_mode='x': there are individual, grouped*"),
    ('program="kvm"', "program='kvm': there are system, storage-daemon, all"),
    ('disks={"vda": "big"}', "disk 'vda': *big*"),
    ('disks={"vda": 0}', "disk 'vda': its size is 0 bytes"),
    ('disks={"../x": "1M"}', "disk '../x': its name is that of its node and its file: *"),
    ('disks="vda"', "disks='vda': this is not a list of names"),
    ("disks=5", "disks=5: this is not a list of names"),
    ('leftovers=["nodes"]', "leftovers='nodes': there are job, node*"),
    ('leftovers="job"', "leftovers='job': this is not a list of names"),
    ("size=1", "it has no argument 'size', but disks, emulate, *"),
    ('"vda"', "'vda' needs a name: it takes disks, emulate, *"),
]
EVERY_FAULT = [
    ('points="reqest.*"', "points='reqest.[*]': at no point of such a name anything can fail"),
    ("points=5", "points=5: these are not patterns of names of points"),
    ('errno="EIO"', "errno='EIO': this is no number of an error, as errno.EIO is"),
    ("most=0", "most=0: this is no number of faults"),
    ("nth=2", "it has no argument 'nth', but points, errno, most"),
    ('"request.*"', "'request.[*]' needs a name: it takes points, errno, most"),
]


@pytest.mark.parametrize(
    ("marker", "mistakes"), [("blkxact", BLKXACT), ("every_fault", EVERY_FAULT)]
)
def test_mistake_is_one_clear_line(pytester, marker, mistakes):
    tests = [
        f"@pytest.mark.{marker}({words})\ndef test_{number}(blkxact):\n    print('it ran')\n"
        for number, (words, _) in enumerate(mistakes)
    ]
    pytester.makepyfile("\n".join(["import pytest", *tests]))
    result = pytester.runpytest_subprocess(*OPTIONS)
    result.assert_outcomes(errors=len(mistakes))
    result.stdout.fnmatch_lines([f"@pytest.mark.{marker}: {text}" for _, text in mistakes])
    text = result.stdout.str()
    assert "it ran" not in text
    assert "Traceback" not in text


def test_every_fault_on_a_test_without_the_fixture_is_a_mistake(pytester):
    pytester.makepyfile(
        "import pytest\n"
        "@pytest.mark.every_fault\n"
        "def test_alone(): ...\n"
        "@pytest.mark.every_fault\n"
        "class TestSome:\n"
        "    def test_other(self): ...\n"
    )
    result = pytester.runpytest_subprocess(*OPTIONS)
    result.assert_outcomes(errors=1, passed=1)
    result.stdout.fnmatch_lines(
        ["@pytest.mark.every_fault: the test does not use the fixture blkxact"]
    )
