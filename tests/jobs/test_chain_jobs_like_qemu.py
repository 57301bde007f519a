"""block-commit, block-stream and change-backing-file: every reply, event and header as QEMU's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from .qemu_pair import OURS, QEMU, Emulator, Script, run_tool, transcript

NODES = ("base", "mid", "upper", "top")
WRITES = {
    "base": ("write -P 1 0 1M",),
    "mid": ("write -P 2 512k 1M",),
    "upper": ("write -P 3 3M 100k", "write -z 0 64k"),
    "top": ("write -P 4 2M 64k",),
}
SIZES = {"base": "4M", "mid": "4M", "upper": "4M", "top": "4M"}
LONGER_TOP = {"base": "2M", "mid": "3M", "upper": "4M", "top": "5M"}
RAW_BASE = SIZES | {"format": "raw"}
SHORTER_MID = {"base": "4M", "mid": "2M", "upper": "4M", "top": "4M"}


def make_chain(directory: Path, sizes: dict[str, str]) -> None:
    below: tuple[str, ...] = ()
    for name in NODES:
        image = str(directory / f"{name}.qcow2")
        fmt = sizes.get("format", "qcow2") if name == "base" else "qcow2"
        run_tool("qemu-img", "create", "-q", "-f", fmt, *below, image, sizes[name])
        limit = int(sizes[name].rstrip("M"))
        for write in WRITES[name]:
            if limit >= 4 or "3M" not in write:
                run_tool("qemu-io", "-f", fmt, "-c", write, image)
        below = ("-b", f"{name}.qcow2", "-F", fmt)


def add_chain(emulator: Emulator, sizes: dict[str, str]) -> None:
    below = None
    for name in NODES:
        fmt = sizes.get("format", "qcow2") if name == "base" else "qcow2"
        file = {"driver": "file", "filename": f"{name}.qcow2", "node-name": f"{name}-file"}
        emulator.execute(
            "blockdev-add",
            node_name=name,
            file=file,
            read_only=name != "top",
            **{"driver": "raw"} if fmt == "raw" else {"driver": "qcow2", "backing": below},
        )
        below = name


def commit(emulator: Emulator, **arguments: Any) -> None:
    emulator.execute("block-commit", **{"device": "top", "job_id": "j"} | arguments)


def stream(emulator: Emulator, **arguments: Any) -> None:
    emulator.execute("block-stream", **{"device": "top", "job_id": "j"} | arguments)


def finish(emulator: Emulator) -> None:
    emulator.wait_for("null")
    emulator.execute("query-block-jobs")
    emulator.execute("query-named-block-nodes", flat=True)


def commit_upper_to_base(emulator: Emulator) -> None:
    commit(emulator, top_node="upper", base_node="base")
    finish(emulator)


def commit_mid_by_names(emulator: Emulator) -> None:
    commit(emulator, top="mid.qcow2", base="base.qcow2", backing_file="other.qcow2")
    finish(emulator)


def commit_waits_for_the_client(emulator: Emulator) -> None:
    commit(emulator, top_node="upper", base_node="mid", auto_finalize=False, auto_dismiss=False)
    emulator.wait_for("pending")
    emulator.execute("query-jobs")
    emulator.execute("job-finalize", id="j")
    emulator.wait_for("concluded")
    emulator.execute("query-jobs")
    emulator.execute("job-dismiss", id="j")
    finish(emulator)


def others_while_commit_waits(emulator: Emulator) -> None:
    commit(emulator, top_node="upper", base_node="base", auto_finalize=False, filter_node_name="f")
    emulator.wait_for("pending")
    emulator.execute("query-named-block-nodes", flat=True)
    stream(emulator, device="upper", job_id="k")
    commit(emulator, top_node="mid", base_node="base", job_id="k")
    emulator.execute("change-backing-file", device="top", image_node_name="mid", backing_file="x")
    for node in NODES:
        emulator.execute("blockdev-del", node_name=node)
    emulator.execute("job-finalize", id="j")
    finish(emulator)


def commit_refusals(emulator: Emulator) -> None:
    for arguments in (
        {"device": "nope"},
        {"device": "mid"},
        {"top_node": "base", "base_node": "mid"},
        {"top_node": "nope"},
        {"top": "nope"},
        {"base": "nope"},
        {"top_node": "mid", "base_node": "mid"},
        {"top_node": "base"},
        {"top_node": "mid", "top": "x"},
        {"top_node": "mid", "base_node": "base", "base": "x"},
        {"top_node": "mid", "base_node": "base", "job_id": ""},
        {"top_node": "mid", "base_node": "base", "speed": -1},
        {"top_node": "mid", "base_node": "base", "job_id": "#j"},
        {"top_node": "mid", "base_node": "base", "filter_node_name": "base"},
        {"top_node": "mid", "base_node": "base-file"},
        {"base_node": "base", "backing_file": "x"},
        {"base_node": "base", "job_id": ""},
        {"base_node": "base", "speed": -1},
        {"base_node": "base", "filter_node_name": "mid"},
    ):
        commit(emulator, **arguments)
    finish_refused(emulator)


def commit_active_and_pivot(emulator: Emulator) -> None:
    commit(emulator, base_node="base")
    emulator.wait_for("ready")
    emulator.execute("query-block-jobs")
    emulator.execute("job-complete", id="j")
    finish(emulator)


def commit_active_and_stay(emulator: Emulator) -> None:
    commit(emulator, base_node="mid", auto_dismiss=False, filter_node_name="f")
    emulator.wait_for("ready")
    emulator.execute("query-jobs")
    stream(emulator, device="upper", job_id="k")
    commit(emulator, device="f", top_node="mid", base_node="base", job_id="k")
    emulator.execute("blockdev-del", node_name="mid")
    emulator.execute("block-job-cancel", device="j")
    emulator.wait_for("concluded")
    emulator.execute("query-jobs")
    emulator.execute("job-dismiss", id="j")
    finish(emulator)


def finish_refused(emulator: Emulator) -> None:
    emulator.execute("query-jobs")
    emulator.execute("query-named-block-nodes", flat=True)


def stream_everything(emulator: Emulator) -> None:
    stream(emulator)
    finish(emulator)


def stream_above_base(emulator: Emulator) -> None:
    stream(emulator, base_node="base", auto_finalize=False, auto_dismiss=False)
    emulator.wait_for("pending")
    emulator.execute("query-named-block-nodes", flat=True)
    emulator.execute("job-finalize", id="j")
    emulator.wait_for("concluded")
    emulator.execute("query-jobs")
    emulator.execute("job-dismiss", id="j")
    finish(emulator)


def stream_with_names(emulator: Emulator) -> None:
    stream(emulator, base="mid.qcow2", backing_file="other.qcow2")
    finish(emulator)


def stream_in_the_middle_down_to_bottom(emulator: Emulator) -> None:
    stream(emulator, device="upper", bottom="mid", filter_node_name="cor")
    finish(emulator)


def stream_nothing(emulator: Emulator) -> None:
    stream(emulator, base_node="upper")
    finish(emulator)


def others_while_stream_waits(emulator: Emulator) -> None:
    stream(emulator, base_node="base", auto_finalize=False)
    emulator.wait_for("pending")
    stream(emulator, device="upper", job_id="k")
    commit(emulator, top_node="mid", base_node="base", job_id="k")
    for node in NODES:
        emulator.execute("blockdev-del", node_name=node)
    emulator.execute("job-finalize", id="j")
    finish(emulator)


def stream_refusals(emulator: Emulator) -> None:
    for arguments in (
        {"device": "nope"},
        {"base": "x", "base_node": "y"},
        {"base": "x", "bottom": "y"},
        {"bottom": "x", "base_node": "y"},
        {"base": "nope"},
        {"base_node": "nope"},
        {"device": "mid", "base_node": "top"},
        {"device": "mid", "base_node": "mid"},
        {"device": "mid", "bottom": "top"},
        {"bottom": "mid-file"},
        {"bottom": "nope"},
        {"backing_file": "x"},
        {"job_id": "#"},
        {"speed": -1},
        {"filter_node_name": "mid"},
    ):
        stream(emulator, **arguments)
    finish_refused(emulator)


def change_backing_file(emulator: Emulator) -> None:
    for device, image, name in (
        ("top", "mid", "foo"),
        ("top", "base", "foo"),
        ("mid", "mid", "foo"),
        ("top", "nope", "foo"),
        ("nope", "top", "foo"),
        ("top", "top", "f" * 1100),
        ("top", "top", "mid.qcow2"),
    ):
        emulator.execute(
            "change-backing-file", device=device, image_node_name=image, backing_file=name
        )
    finish_refused(emulator)


CASES = [
    (commit_upper_to_base, SIZES),
    (commit_upper_to_base, LONGER_TOP),
    (commit_upper_to_base, SHORTER_MID),
    (commit_mid_by_names, SIZES),
    (commit_waits_for_the_client, SIZES),
    (others_while_commit_waits, SIZES),
    (commit_refusals, SIZES),
    (commit_active_and_pivot, SIZES),
    (commit_active_and_pivot, LONGER_TOP),
    (commit_active_and_stay, SIZES),
    (stream_everything, SIZES),
    (stream_everything, LONGER_TOP),
    (stream_everything, SHORTER_MID),
    (commit_upper_to_base, RAW_BASE),
    (stream_everything, RAW_BASE),
    (stream_above_base, RAW_BASE),
    (stream_above_base, SIZES),
    (stream_above_base, SHORTER_MID),
    (stream_with_names, SIZES),
    (stream_in_the_middle_down_to_bottom, SIZES),
    (stream_nothing, SIZES),
    (others_while_stream_waits, SIZES),
    (stream_refusals, SIZES),
    (change_backing_file, SIZES),
]


def _case_name(value: Any) -> str:
    names = {id(LONGER_TOP): "longer-top", id(SHORTER_MID): "shorter-mid", id(RAW_BASE): "raw-base"}
    return getattr(value, "__name__", names.get(id(value), ""))


@pytest.mark.qemu
@pytest.mark.parametrize(("script", "sizes"), CASES, ids=_case_name)
def test_chain_job_says_and_writes_what_qemu_does(
    script: Script, sizes: dict[str, str], image_dir: Path
) -> None:
    def whole(emulator: Emulator) -> None:
        add_chain(emulator, sizes)
        script(emulator)

    found = []
    for program in (QEMU, OURS):
        directory = image_dir / Path(program[0]).name
        directory.mkdir()
        make_chain(directory, sizes)
        # A job that has nothing to do may be over before QEMU's reply.
        sort_events = script is stream_nothing
        found.append(transcript(program, directory, whole, sort_events=sort_events))
    assert found[1] == found[0]
