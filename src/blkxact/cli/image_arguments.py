"""The options that several verbs of ``blkxact image`` share, and the images they name."""

from __future__ import annotations

import argparse
from functools import partial
from typing import Any

from blkxact.drivers.image_options import typed_options
from blkxact.errors import QmpError
from blkxact.image_tools.open_images import CACHE_MODES, ImageName
from blkxact.storage.os_file import is_device

from .errors import CliError
from .keyval import parse_keyval
from .members import parse_object, parse_option

Parser = argparse.ArgumentParser


def add_format(parser: Parser, what: str = "format of the image; default: probe it") -> None:
    """Add ``-f`` and ``--image-opts``."""
    parser.add_argument("-f", "--format", dest="format", metavar="FORMAT", help=what)
    parser.add_argument(
        "--image-opts",
        action="store_true",
        help="the image's name is a list of options: driver=qcow2,file.filename=...",
    )
    add_objects(parser)


def add_objects(parser: Parser) -> None:
    """Add ``--object``."""
    parser.add_argument(
        "--object",
        dest="objects",
        metavar="OPTIONS",
        action="append",
        default=[],
        type=partial(parse_option, "--object", parser=parse_object),
        help="create an object that images need, such as a secret: TYPE,id=ID,...",
    )


def add_force_share(parser: Parser) -> None:
    """Add ``-U``."""
    parser.add_argument(
        "-U",
        "--force-share",
        action="store_true",
        help="open the image even if another process writes to it",
    )


def add_chain(parser: Parser) -> None:
    """Add the uppermost image of a chain, and how it is opened."""
    add_format(parser)
    add_force_share(parser)
    parser.add_argument("filename", help="the uppermost image")


def add_output(parser: Parser) -> None:
    """Add ``--output``."""
    parser.add_argument(
        "--output",
        choices=("human", "json"),
        default="human",
        help="for a person (default), or as JSON",
    )


def add_quiet(parser: Parser) -> None:
    """Add ``-q``."""
    parser.add_argument("-q", dest="quiet", action="store_true", help="print nothing but errors")


def add_progress(parser: Parser) -> None:
    """Add ``-p``."""
    parser.add_argument("-p", dest="progress", action="store_true", help="show the progress")


def add_cache(parser: Parser, default: str = "writeback") -> None:
    """Add ``-t``: how the image that is written is cached."""
    parser.add_argument(
        "-t",
        dest="cache",
        metavar="CACHE",
        default=default,
        type=partial(_cache_mode, refusal="Invalid cache option"),
        help=f"cache mode of what is written: {', '.join(CACHE_MODES)} (default {default})",
    )


def add_source_cache(parser: Parser) -> None:
    """Add ``-T``: how images that are read are cached."""
    parser.add_argument(
        "-T",
        dest="source_cache",
        metavar="CACHE",
        default="writeback",
        type=partial(_cache_mode, refusal="Invalid source cache option"),
        help="cache mode of what is read",
    )


def _cache_mode(text: str, *, refusal: str) -> str:
    if text not in CACHE_MODES:
        raise CliError(f"{refusal}: {text}")
    return text


def image_name(
    args: argparse.Namespace, text: str | None = None, *, cache: str | None = None
) -> ImageName:
    """Return the image that ``text``, by default the verb's ``filename``, names.

    ``cache`` None: that of ``-T``, where the verb has it. Raises ``CliError``.
    """
    text = args.filename if text is None else text
    cache = cache or str(getattr(args, "source_cache", "writeback"))
    if not args.image_opts:
        return ImageName(text, args.format, cache=cache)
    if args.format is not None:
        raise CliError("--image-opts and --format are mutually exclusive")
    return ImageName(text, options=_image_options(text), cache=cache)


def _image_options(text: str) -> dict[str, Any]:
    try:
        return typed_options(parse_keyval(text, "driver"), is_device)
    except QmpError as error:
        raise CliError(f"Could not open '{text}': {error.desc}") from error
