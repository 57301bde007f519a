"""``-o`` of ``blkxact image create`` and ``convert``: the options of new images.

QEMU's counterpart: ``qcow2_create_opts`` in ``block/qcow2.c``, ``raw_create_opts`` in
``block/raw-format.c`` and ``block/file-posix.c``.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple

from blkxact.blockdev.image_create import FORMATS
from blkxact.drivers.qcow2.create import CreateOptions
from blkxact.enums import PreallocMode, Qcow2CompressionType
from blkxact.errors import QmpError
from blkxact.storage.file_hints import FileHints

from .errors import CliError
from .keyval import parse_opts
from .sizes import parse_size

_NOT_YET: Final = "encrypt."
_HELP: Final = ("help", "?")


class _Kind(NamedTuple):
    """What kind of text an option has.

    ``parse`` gives its value, or None for a bad one, of which ``refusal`` is said; ``late``: not
    before the format of the new image was known.
    """

    name: str
    parse: Callable[[str], Any]
    refusal: str = ""
    late: bool = False


def _one_of(values: Mapping[str, Any]) -> _Kind:
    return _Kind("str", values.get, "does not accept value '{}'", late=True)


_TEXT: Final = _Kind("str", str)
_NUMBER: Final = _Kind(
    "num", lambda text: int(text) if text.isdecimal() else None, "expects a number"
)
_SIZE: Final = _Kind("size", parse_size)
_SWITCH: Final = _Kind("bool (on/off)", {"on": True, "off": False}.get, "expects 'on' or 'off'")
_NOT_ON: Final = _Kind("bool (on/off)", {"off": False}.get, "is not supported yet")
_VERSION: Final = _one_of({"0.10": 2, "v2": 2, "1.1": 3, "v3": 3})
_PREALLOCATION: Final = _one_of({mode.value: mode for mode in PreallocMode})
_COMPRESSION: Final = _one_of({kind.value: kind for kind in Qcow2CompressionType})

_OF_FILES: Final = {
    "extent_size_hint": (_SIZE, "pieces in which the file system is to allocate (XFS); 0: its own"),
    "nocow": (_SWITCH, "write in place where the file system copies on write (btrfs)"),
    "preallocation": (_PREALLOCATION, "off, falloc or full"),
    "size": (_SIZE, "length of the disk"),
}
_OF_RAW: Final = {"size": (_SIZE, "length of the disk")}
_OF_QCOW2: Final = {
    "backing_file": (_TEXT, "name of the image below"),
    "backing_fmt": (_TEXT, "its format"),
    "cluster_size": (_SIZE, "length of a cluster, 512 to 2M"),
    "compat": (_VERSION, "version of the format: v2 (0.10) or v3 (1.1)"),
    "compression_type": (_COMPRESSION, "of compressed clusters: zlib or zstd"),
    "data_file": (_TEXT, "name of a file that holds the data"),
    "data_file_raw": (_SWITCH, "that file is a raw image of the disk"),
    "encryption": (_NOT_ON, "off: encrypted images are not supported"),
    "extended_l2": (_SWITCH, "clusters have subclusters"),
    "lazy_refcounts": (_SWITCH, "write reference counts late"),
    "preallocation": (_PREALLOCATION, "off, metadata, falloc or full"),
    "refcount_bits": (_NUMBER, "bits of a reference count, 1 to 64"),
    "size": (_SIZE, "length of the disk"),
}
_OPTIONS: Final[Mapping[str, Mapping[str, tuple[_Kind, str]]]] = {
    "qcow2": _OF_QCOW2,
    "raw": _OF_RAW,
    "file": _OF_FILES,
}
_MEMBERS: Final = {"compat": "version"}
"""Members of ``CreateOptions`` that are called otherwise."""
_NOT_MEMBERS: Final = ("nocow", "extent_size_hint", "encryption")


class ImageOptions(NamedTuple):
    """What ``-o`` says. ``given`` has the values as qemu-img prints them."""

    image: CreateOptions
    hints: FileHints
    given: Mapping[str, object]
    refusal: str | None = None
    """What is wrong with a value, to be reported once the format of the new image is known."""


def add_create_options(parser: argparse.ArgumentParser) -> None:
    """Add ``-o``."""
    parser.add_argument(
        "-o",
        dest="options",
        metavar="NAME=VALUE,...",
        action="append",
        default=[],
        help="options of the format, for example cluster_size=4k; help: list them",
    )


def given_options(args: argparse.Namespace) -> dict[str, str]:
    """Return what all ``-o`` say; raises ``CliError`` if one says nothing."""
    options: dict[str, str] = {}
    for text in args.options:
        if not text.strip(",") or text[0] == "," or text[-1] == ",":
            raise CliError(f"Invalid option list: {text}")
        options.update(parse_opts(text))
    return options


def wants_help(options: Mapping[str, str]) -> bool:
    """Return whether ``-o`` asks what there is."""
    return any(name in options for name in _HELP)


def describe_options(fmt: str, *, with_file: bool) -> str:
    """Return the options of a format, one in a line; raises ``CliError`` for an unknown one."""
    if fmt not in FORMATS:
        raise CliError(f"Unknown file format '{fmt}'")
    options = {**(_OF_FILES if with_file else {}), **_OPTIONS[fmt]}
    lines = ["Supported options:" if with_file else f"Supported {fmt} options:"]
    for name, (kind, text) in sorted(options.items()):
        lines.append(f"{f'  {name}=<{kind.name}>':24} - {text}")
    if not with_file:
        lines += ["", "With a file name, those of the file are listed, too."]
    return "\n".join(lines)


def parse_options(fmt: str, texts: Mapping[str, str]) -> ImageOptions:
    """Return the options of ``-o`` as values; raises ``QmpError`` and ``CliError``."""
    known = {**_OF_FILES, **_OPTIONS.get(fmt, {})}
    values: dict[str, Any] = {}
    refusal: str | None = None
    for name, text in texts.items():
        if fmt == "qcow2" and name.startswith(_NOT_YET):
            raise QmpError(f"Parameter '{name}' is not supported yet")
        if name not in known:
            raise QmpError(f"Invalid parameter '{name}'")
        kind, _ = known[name]
        value = kind.parse(text)
        if value is not None:
            values[name] = value
        elif kind.late:
            member = _MEMBERS.get(name, name).replace("_", "-")
            refusal = refusal or f"Parameter '{member}' {kind.refusal.format(text)}"
        else:
            raise CliError(f"Parameter '{name}' {kind.refusal.format(text)}")
    hints = FileHints(values.get("nocow", False), values.get("extent_size_hint"))
    of_image = {
        _MEMBERS.get(name, name): value
        for name, value in values.items()
        if name not in _NOT_MEMBERS
    }
    given = {
        name: values[name] if known[name][0] is _SIZE else text for name, text in texts.items()
    }
    return ImageOptions(CreateOptions(size=0)._replace(**of_image), hints, given, refusal)
