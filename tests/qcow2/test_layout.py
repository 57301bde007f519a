"""The bytes of headers and tables, and the refusals of such as cannot be."""

import struct

import pytest

from blkxact.drivers.qcow2 import layout
from blkxact.drivers.qcow2.layout_tables import (
    BitmapEntry,
    Snapshot,
    pack_bitmap_directory,
    parse_bitmap_directory,
    parse_snapshot,
)
from blkxact.errors import QmpError

TOO_LARGE = (
    "bitmaps_ext: bitmap directory size (1099511627776) exceeds the maximum supported size "
    "(67107840)"
)


def parsed(cluster):
    header = layout.parse_header(cluster)
    layout.parse_first_cluster(header, cluster)
    return header


def sample(**fields):
    return layout.Header(size=1 << 30, l1_size=2, l1_table_offset=3 << 16, **fields)


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"version": 2, "header_length": 72},
        {"backing_file": "base.img", "backing_format": "raw"},
        {"bitmaps": layout.BitmapsExtension(3, 96, 5 << 16), "autoclear": 1},
        {"unknown_extensions": [(0x12345678, b"seven b"), (0x9, b"")]},
        {"unknown_fields": b"later!!!", "header_length": 120},
        {"compression_type": 1, "incompatible": 8, "refcount_order": 6},
    ],
)
def test_header_packed_and_parsed_is_the_same(fields):
    header = sample(**fields)
    assert parsed(layout.pack_header(header)) == header


def test_header_with_backing_name_that_does_not_fit_is_refused():
    header = sample(cluster_bits=9, backing_file="x" * 500)
    with pytest.raises(OSError, match="No space left"):
        layout.pack_header(header)


def patched(offset, fmt, *values, **fields):
    cluster = bytearray(layout.pack_header(sample(**fields)))
    struct.pack_into(fmt, cluster, offset, *values)
    return bytes(cluster)


@pytest.mark.parametrize(
    ("cluster", "message"),
    [
        (bytes(65536), "Image is not in qcow2 format"),
        (patched(4, ">I", 4), "Unsupported qcow2 version 4"),
        (patched(20, ">I", 8), "Unsupported cluster size: 2^8"),
        (patched(20, ">I", 22), "Unsupported cluster size: 2^22"),
        (patched(100, ">I", 103), "qcow2 header too short"),
        (patched(100, ">I", 65537), "qcow2 header exceeds cluster size"),
        (patched(8, ">Q", 65537), "Invalid backing file offset"),
        (patched(8, ">QI", 65000, 1024), "Backing file name too long"),
        (patched(112, ">II", 0x1234, 70000), "Header extension too large"),
        (patched(112, ">II", 0xE2792ACA, 16),
         "ERROR: ext_backing_format: len=16 too large (>=16)"),
        (patched(112, ">II", 0x23852875, 8), "bitmaps_ext: Invalid extension length"),
        (patched(112, ">IIII", 0x23852875, 24, 1, 1, autoclear=1),
         "bitmaps_ext: Reserved field is not zero"),
        (patched(112, ">IIII", 0x23852875, 24, 65536, 0, autoclear=1),
         "bitmaps_ext: Image has 65536 bitmaps, exceeding the QEMU supported maximum of 65535"),
        (patched(112, ">IIII", 0x23852875, 24, 0, 0, autoclear=1),
         "found bitmaps extension with zero bitmaps"),
        (patched(112, ">IIIIQQ", 0x23852875, 24, 1, 0, 32, 77, autoclear=1),
         "bitmaps_ext: invalid bitmap directory offset"),
        (patched(112, ">IIIIQQ", 0x23852875, 24, 1, 0, 1 << 40, 65536, autoclear=1),
         TOO_LARGE),
    ],
)  # fmt: skip
def test_header_that_cannot_be_is_refused_in_qemus_words(cluster, message):
    with pytest.raises(QmpError) as error:
        parsed(cluster)
    assert error.value.desc == message


def test_last_name_of_a_feature_may_be_cut_off():
    cluster = bytearray(layout.pack_header(sample()))
    text = b"\0\x3fTest feature"
    extension = struct.pack(">II", 0x6803F857, len(text)) + text + bytes(10)
    start = parsed(bytes(cluster)).header_length
    cluster[start : start + len(extension)] = extension
    assert layout.feature_names(parsed(bytes(cluster)), bytes(cluster))[63] == "Test feature"


def test_features_unknown_to_us_are_named_by_the_image_or_by_number():
    cluster = bytearray(layout.pack_header(sample()))
    place = cluster.index(b"\0\x04extended L2 entries")
    cluster[place : place + 48] = struct.pack(">BB46s", 0, 40, b"holographic clusters")
    names = layout.feature_names(parsed(bytes(cluster)), bytes(cluster))
    error = layout.unsupported_features(1 << 40 | 1 << 41, names)
    assert error.desc == (
        "Unsupported qcow2 feature(s): holographic clusters, "
        "Unknown incompatible feature: 20000000000"
    )


def test_snapshot_with_extra_data_of_the_future_is_parsed():
    extra = struct.pack(">QQQ", 5 << 32, 1 << 30, 7) + b"future"
    entry = struct.pack(">QIHHIIQII", 65536, 1, 1, 4, 100, 200, 300, 400, len(extra))
    data = (entry + extra + b"1name").ljust(200, b"\0")
    snapshot, position = parse_snapshot(data, 0, 0)
    expected = Snapshot(65536, 1, "1", "name", 100, 200, 300, 5 << 32, 1 << 30, 7, b"future")
    assert snapshot == expected
    assert position == 80


def test_snapshot_with_too_much_extra_data_is_refused():
    data = struct.pack(">QIHHIIQII", 0, 0, 0, 0, 0, 0, 0, 0, 1025).ljust(2000, b"\0")
    with pytest.raises(QmpError, match="Too much extra metadata in snapshot table entry 4"):
        parse_snapshot(data, 0, 4)


ENTRIES = [BitmapEntry("one", 16, 3, 5 << 16, 1), BitmapEntry("zwei\udc80", 9, 0, 6 << 16, 9)]


def test_bitmap_directory_packed_and_parsed_is_the_same():
    data = pack_bitmap_directory(ENTRIES)
    assert parse_bitmap_directory(data, 2, sample(), 1 << 30) == ENTRIES


@pytest.mark.parametrize(
    ("entry", "change", "count", "message"),
    [
        (ENTRIES[0], b"", 2, "Less bitmaps found than specified in header extension"),
        (ENTRIES[0], b"", 0, "More bitmaps found than specified in header extension"),
        (ENTRIES[0], b"12345678", 1, "Broken bitmap directory"),
        (BitmapEntry("b", 8, 0, 65536, 1), b"", 1, "Bitmap 'b' doesn't satisfy the constraints"),
        (BitmapEntry("b", 32, 0, 65536, 1), b"", 1, "Bitmap 'b' doesn't satisfy the constraints"),
        (BitmapEntry("b", 16, 4, 65536, 1), b"", 1, "Bitmap 'b' doesn't satisfy the constraints"),
        (BitmapEntry("b", 16, 0, 65537, 1), b"", 1, "Bitmap 'b' doesn't satisfy the constraints"),
        (BitmapEntry("b", 16, 0, 0, 1), b"", 1, "Bitmap 'b' doesn't satisfy the constraints"),
        (BitmapEntry("b", 16, 0, 65536, 0), b"", 1, "Bitmap 'b' doesn't satisfy the constraints"),
        (BitmapEntry("b", 16, 0, 65536, 9000), b"", 1,
         "Bitmap 'b' doesn't satisfy the constraints"),
        (BitmapEntry("b", 9, 0, 65536, 1), b"", 1, "Bitmap 'b' doesn't satisfy the constraints"),
    ],
)  # fmt: skip
def test_bitmap_directory_that_cannot_be_is_refused(entry, change, count, message):
    data = pack_bitmap_directory([entry]) + change
    with pytest.raises(QmpError) as error:
        parse_bitmap_directory(data, count, sample(), 1 << 40)
    assert error.value.desc == message
