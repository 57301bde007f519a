"""``blkxact report``: one page that shows what happened."""

from __future__ import annotations

import argparse
from pathlib import Path

from blkxact.record.reader import RecordError, read_record
from blkxact.report.page import page_of

from .errors import CliError


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``report``."""
    parser.epilog = """\
A RECORD is what serve --record or system -record has kept. The page is one HTML file, which needs
no network.

exit status: 0, or 1 if the record cannot be read
"""
    parser.add_argument("record", metavar="RECORD", type=Path)
    parser.add_argument(
        "-o",
        "--output",
        metavar="FILE",
        type=Path,
        help="the page; default: RECORD with the suffix .html",
    )


def run(args: argparse.Namespace) -> int:
    """Write the page and say where it is."""
    page = args.output or args.record.with_suffix(".html")
    write_page(args.record, page)
    print(page)
    return 0


def write_page(record: Path, page: Path) -> None:
    """Write the page of a record. Raises ``CliError``; a page that was there is kept then."""
    try:
        text = page_of(read_record(record), title=record.name)
    except RecordError as error:
        raise CliError(str(error)) from error
    try:
        page.write_text(text, encoding="utf-8", errors="replace")
    except OSError as error:
        raise CliError(f"cannot write '{page}': {error.strerror}") from error
