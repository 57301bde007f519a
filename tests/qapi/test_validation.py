"""What a valid command becomes."""

import pytest

from blkxact.actions import Transaction
from blkxact.enums import BlockdevAioOptions
from blkxact.errors import QmpError
from blkxact.qapi.block_core import (
    BlockdevBackup,
    BlockDirtyBitmap,
    BlockDirtyBitmapAdd,
    BlockDirtyBitmapMerge,
)
from blkxact.qapi.block_export import BlockExportOptions
from blkxact.qapi.blockdev import BlockdevOptions, BlockdevOptionsFile, BlockdevOptionsNull
from blkxact.qapi.qdev import DeviceAdd
from blkxact.qapi.qom import ObjectOptions, ThrottleGroupProperties
from blkxact.qapi.validation import validate, validate_keyval


def test_validate_backup_with_required_members_has_qemus_defaults():
    backup = validate(BlockdevBackup, {"device": "d", "sync": "full", "target": "t"})
    assert (backup.speed, backup.on_source_error, backup.auto_dismiss) == (0, "report", True)
    assert backup.job_id is None
    assert backup.bitmap_mode is None


def test_validate_wire_name_with_dash_fills_attribute_with_underscore():
    backup = validate(BlockdevBackup, {"device": "d", "sync": "full", "target": "t", "job-id": "j"})
    assert backup.job_id == "j"
    assert backup.to_wire() == {"device": "d", "sync": "full", "target": "t", "job-id": "j"}


def test_model_in_python_is_built_by_attribute_names_and_frozen():
    backup = BlockdevBackup(device="d", sync="full", target="t", job_id="j")
    with pytest.raises(AttributeError):
        backup.job_id = "k"


def test_validate_transaction_makes_typed_actions_in_order():
    add = {"type": "block-dirty-bitmap-add", "data": {"node": "n", "name": "b"}}
    done = validate(Transaction, {"actions": [add, {"type": "abort", "data": {}}]})
    assert isinstance(done.actions[0].data, BlockDirtyBitmapAdd)
    assert done.actions[0].data.name == "b"
    assert [action.type for action in done.actions] == ["block-dirty-bitmap-add", "abort"]
    assert done.properties is None


def test_validate_transaction_properties_of_ours_are_taken():
    properties = {"completion-mode": "deferred", "id": "t0"}
    done = validate(Transaction, {"actions": [], "properties": properties})
    assert done.properties.completion_mode == "deferred"
    assert done.properties.id == "t0"


def test_validate_merge_takes_names_and_bitmaps_of_other_nodes():
    merge = validate(
        BlockDirtyBitmapMerge,
        {"node": "n", "target": "t", "bitmaps": ["a", {"node": "m", "name": "b"}]},
    )
    assert merge.bitmaps == ["a", BlockDirtyBitmap(node="m", name="b")]


def test_validate_blockdev_options_nest():
    qcow2 = validate(
        BlockdevOptions,
        {"driver": "qcow2", "node-name": "n", "file": {"driver": "file", "filename": "f"}},
    )
    assert isinstance(qcow2.file, BlockdevOptionsFile)
    assert qcow2.file.filename == "f"


@pytest.mark.parametrize(
    ("members", "is_given"),
    [({}, False), ({"backing": None}, True), ({"backing": "b"}, True)],
)
def test_validate_backing_absent_and_null_are_told_apart(members, is_given):
    qcow2 = validate(BlockdevOptions, {"driver": "qcow2", "file": "f"} | members)
    assert qcow2.backing == members.get("backing")
    assert ("backing" in qcow2.given) is is_given


def test_validate_negative_uint64_wraps_as_in_qemu():
    null = validate(BlockdevOptions, {"driver": "null-co", "latency-ns": -1})
    assert isinstance(null, BlockdevOptionsNull)
    assert null.latency_ns == 2**64 - 1


def test_validate_union_of_one_branch():
    export = validate(BlockExportOptions, {"type": "nbd", "id": "e", "node-name": "n"})
    assert export.writable is False


def test_validate_union_with_dash_in_its_tag():
    group = validate(ObjectOptions, {"qom-type": "throttle-group", "id": "g"})
    assert isinstance(group, ThrottleGroupProperties)


def test_validate_device_add_takes_properties_that_the_schema_does_not_have():
    device = validate(DeviceAdd, {"driver": "virtio-blk", "write-cache": "on", "num-queues": 2})
    assert device == DeviceAdd(driver="virtio-blk")


def test_validate_no_model_takes_no_arguments():
    validate(None, {})
    with pytest.raises(QmpError, match="Parameter 'x' is unexpected"):
        validate(None, {"x": 1})


def test_validate_unserved_driver_is_refused_as_one_not_built_in():
    with pytest.raises(QmpError, match="Parameter 'driver' does not accept value 'vmdk'"):
        validate(BlockdevOptions, {"driver": "vmdk", "file": "f"})


@pytest.mark.parametrize("count", [1, 10_000])
def test_validate_many_bad_items_tells_the_first(count):
    with pytest.raises(QmpError, match=r"^Invalid parameter type for 'actions\[1\]', expected"):
        validate(Transaction, {"actions": [{"type": "abort", "data": {}}, *([0] * count)]})


@pytest.mark.parametrize("check", [validate, validate_keyval])
def test_validate_options_nested_beyond_the_limit_are_refused(check):
    options = "leaf"
    for _ in range(900):
        options = {"driver": "raw", "file": options}
    with pytest.raises(QmpError, match=r"^Parameter 'file[.a-z]*' is nested too deeply$"):
        check(BlockdevOptions, options)


def test_members_of_enumerations_are_plain_strings_on_the_wire():
    file = {"driver": "file", "filename": "a", "aio": "native"}
    options = {"driver": "qcow2", "file": file, "overlap-check": "all"}
    model = validate(BlockdevOptions, options)
    assert model.driver == "qcow2"
    assert model.file.aio is BlockdevAioOptions.NATIVE
    wire = model.to_wire()
    assert wire == options
    assert [type(wire["driver"]), type(wire["file"]["aio"])] == [str, str]
