"""Cases on a Dask cluster: a scheduler and two workers on loopback."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from blkxact.cli.main import main
from blkxact.prove.results import Verdict
from blkxact.prove.scenario import Scenario, load
from blkxact.prove.sweep import Sweep

distributed = pytest.importorskip("distributed", reason="the extra 'dask' is not installed")

SCENARIO = """\
[[disk]]
name = "vda"
size = "1M"
format = "raw"
[client]
full = "sh -c 'cp {dir}/vda.raw {store}/b && sync {store}/b'"
incremental = "sh -c 'cp {dir}/vda.raw {store}/b && sync {store}/b'"
restore = "cp {store}/b {out}"
cycle = ["full", "incremental"]
"""
CASES = 8


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with distributed.LocalCluster(
        n_workers=2,
        threads_per_worker=1,
        host="127.0.0.1",
        dashboard_address=None,
        local_directory=tmp_path_factory.mktemp("dask"),
    ) as cluster:
        yield cluster


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "s.toml"
    path.write_text(SCENARIO)
    return path


@pytest.fixture
def scenario(path: Path) -> Scenario:
    return load(path)


def worker_pids(cluster: Any) -> dict[str, int]:
    """Return the processes of the workers by their address."""
    with distributed.Client(cluster.scheduler_address, set_as_default=False) as client:
        pids: dict[str, int] = client.run(os.getpid)
        return pids


def test_cases_run_on_the_cluster(path: Path, cluster: Any, capsys: pytest.CaptureFixture[str]):
    assert main(["prove", str(path), "--dask", cluster.scheduler_address]) == 0
    assert f"{CASES} cases in" in capsys.readouterr().out


def test_worker_that_dies_loses_nothing(scenario: Scenario, cluster: Any):
    before = worker_pids(cluster)
    victim = min(before.values())
    with Sweep(scenario, cluster=cluster.scheduler_address) as sweep:
        sweep.baseline()
        found = []
        for result in sweep.run(sweep.cases()):
            if not found:
                os.kill(victim, signal.SIGKILL)
            found.append(result)
    assert {result.verdict for result in found} == {Verdict.SOUND}
    assert len({str(result.case) for result in found}) == len(found) == CASES


def test_scheduler_that_does_not_answer_is_reported_in_one_line(
    path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr("blkxact.prove.cluster.CONNECT_S", 0.2)
    assert main(["prove", str(path), "--dask", "tcp://127.0.0.1:1"]) == 1
    error = capsys.readouterr().err
    assert error.startswith("blkxact: tcp://127.0.0.1:1: no scheduler answers: ")
    assert error.count("\n") == 1
