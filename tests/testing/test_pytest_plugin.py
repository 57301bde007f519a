"""The plugin, seen from a project that uses it."""

import re
import subprocess
import sys

import pytest

pytest_plugins = "pytester"

FAILING = "def test_it(sim_seed):\n    assert sim_seed < 0, f'seed is {sim_seed}'\n"


@pytest.fixture
def run(pytester):
    pytester.makepyfile(test_sample=FAILING)

    def run(*words):
        result = pytester.runpytest("-p", "no:asyncio", "-p", "no:cacheprovider", *words)
        return "\n".join([*result.outlines, *result.errlines])

    return run


def test_seed_of_a_failing_test_is_shown_with_the_command_to_repeat_it(run):
    text = run()
    seed = re.search(r"seed is (\d+)", text)[1]
    assert f"pytest 'test_sample.py::test_it' --sim-seed={seed}" in text
    assert f"seed is {seed}" in run()


def test_seed_given_is_the_one_used(run):
    assert "seed is 1234" in run("--sim-seed=1234")


def test_seed_random_is_a_new_one_each_time(run):
    seeds = {re.search(r"seed is (\d+)", run("--sim-seed=random"))[1] for _ in range(3)}
    assert len(seeds) > 1


def test_seed_that_is_no_number_is_refused(run):
    text = run("--sim-seed=abc")
    assert "--sim-seed takes a number or 'random', not 'abc'" in text
    assert "Traceback" not in text


def test_passing_test_shows_nothing(pytester):
    pytester.makepyfile(test_sample="def test_it(sim_seed):\n    pass\n")
    result = pytester.runpytest("-p", "no:asyncio", "-p", "no:cacheprovider", "-rA")
    assert "--sim-seed" not in result.stdout.str()


def test_import_of_the_plugin_loads_nothing_heavy():
    code = (
        "import sys, blkxact.testing.pytest_plugin\n"
        "print([m for m in ('pyroaring', 'qemu.qmp', 'rich') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == "[]"
