"""``blkxact report``: one page that shows what happened."""

from __future__ import annotations

import argparse
import contextlib
from pathlib import Path

from blkxact.record.reader import RecordError, read_record
from blkxact.report.page import pieces_of_page

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
    if page.exists() and record.exists() and page.samefile(record):
        raise CliError(f"'{page}' is the record itself; -o FILE says where the page goes")
    is_file = not page.is_symlink() and (page.is_file() or not page.exists())
    unfinished = page.with_name(f".{page.name}.new") if is_file else page
    try:
        with unfinished.open("w", encoding="utf-8", errors="replace") as file:
            for piece in pieces_of_page(read_record(record), title=record.name):
                file.write(piece)
        if is_file:
            unfinished.replace(page)
    except RecordError as error:
        _remove(unfinished, is_file=is_file)
        raise CliError(str(error)) from error
    except OSError as error:
        _remove(unfinished, is_file=is_file)
        raise CliError(f"cannot write '{page}': {error.strerror}") from error
    except KeyboardInterrupt:
        _remove(unfinished, is_file=is_file)
        raise


def _remove(unfinished: Path, *, is_file: bool) -> None:
    if is_file:
        with contextlib.suppress(OSError):
            unfinished.unlink()
