"""``blkxact report``, ``--record`` and ``--record-limit`` as a person meets them."""

from __future__ import annotations

import subprocess
import sys

import pytest
from cli_runs import assert_refused, blkxact, blkxact_process

from blkxact.record.writer import RecordWriter


@pytest.fixture
def record(tmp_path):
    """A record of a run in which nothing happened."""
    path = tmp_path / "run.jsonl"
    writer = RecordWriter(str(path), 1 << 20)
    writer.begin(0, "blkxact")
    writer.close()
    return path


def test_report_writes_a_page_next_to_the_record(record):
    done = blkxact("report", record)
    page = record.with_suffix(".html")
    assert (done.status, done.out) == (0, f"{page}\n")
    assert page.read_text().startswith("<!doctype html>")


def test_report_writes_where_it_is_told(record, tmp_path):
    page = tmp_path / "p.html"
    assert blkxact("report", record, "-o", page).out == f"{page}\n"
    assert page.exists()


def test_bad_record_gets_one_line_and_no_page(record):
    record.write_text("hello\n")
    refusal = assert_refused(blkxact("report", record))
    assert refusal == f"{record}: line 1: this is not JSON"
    assert not record.with_suffix(".html").exists()


def test_record_that_is_broken_in_the_middle_leaves_the_page_that_was_there(record):
    page = record.with_suffix(".html")
    page.write_text("old")
    with record.open("a") as file:
        file.write('{"time":1,"trace":"ClientGone","client":1}\n[]\n')
    refusal = assert_refused(blkxact("report", record))
    assert refusal == f"{record}: line 3: this is not an object"
    assert page.read_text() == "old"
    assert sorted(path.name for path in record.parent.iterdir()) == ["run.html", "run.jsonl"]


def test_page_never_replaces_the_record(record):
    before = record.read_bytes()
    named = record.rename(record.with_suffix(".html"))
    for words in ([named], [named, "-o", named.parent / "." / named.name]):
        refusal = assert_refused(blkxact("report", *words))
        assert refusal == f"'{named}' is the record itself; -o FILE says where the page goes"
    assert named.read_bytes() == before


def test_page_goes_to_what_is_no_file_too(record, tmp_path):
    words = [sys.executable, "-m", "blkxact", "report", record, "-o"]
    done = subprocess.run([*words, "/dev/stdout"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("<!doctype html>")
    assert done.stdout.endswith("</html>\n/dev/stdout\n")
    link = tmp_path / "link.html"
    link.symlink_to("page.html")
    subprocess.run([*words, link], capture_output=True, check=True)
    assert link.is_symlink()
    assert (tmp_path / "page.html").read_text().startswith("<!doctype html>")


def test_record_that_is_not_there_is_named(tmp_path):
    path = tmp_path / "no.jsonl"
    assert assert_refused(blkxact("report", path)) == f"{path}: No such file or directory"


def test_page_that_cannot_be_written_is_named(record):
    refusal = assert_refused(blkxact("report", record, "-o", record.parent / "no" / "p.html"))
    assert refusal.endswith("no/p.html': No such file or directory")


@pytest.mark.parametrize("program", ["serve", "system"])
def test_record_that_cannot_be_opened_stops_the_start(program, tmp_path):
    path = tmp_path / "no" / "run.jsonl"
    done = blkxact(program, "--record", path, "--qmp", f"unix:{tmp_path}/q,server=on,wait=off")
    assert assert_refused(done) == f"cannot open record '{path}': No such file or directory"


@pytest.mark.parametrize(
    ("limit", "reason"),
    [("1", "a record takes 4 KiB at the least"), ("many", "Invalid size 'many': a number with")],
)
@pytest.mark.parametrize("program", ["serve", "system"])
def test_record_limit_is_checked(program, limit, reason):
    refusal = assert_refused(blkxact(program, "--record-limit", limit))
    assert refusal.startswith("--record-limit")
    assert reason in refusal


def test_demo_writes_a_page(tmp_path):
    page = tmp_path / "demo.html"
    done = blkxact_process("demo", "--page", page)
    assert (done.status, done.err) == (0, "")
    assert f"What happened, as a page: {page}" in done.out
    text = page.read_text()
    assert "TransactionOver" in text
    assert '"state": "reclaimed"' in text
