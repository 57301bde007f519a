"""The words of qemu-system-x86_64's command line: what is taken, ignored and refused."""

from __future__ import annotations

import pytest

from blkxact.cli.drive import DriveParser
from blkxact.cli.errors import CliError
from blkxact.cli.system import main, system_options
from blkxact.options import ChardevStdio, FdAddress, UnixAddress


def test_system_options_of_a_test_machine_keep_only_the_block_layer():
    options = system_options(
        [
            *("-display", "none", "-vga", "none", "-accel", "qtest", "-machine", "pc"),
            *("-nodefaults", "-S", "-qtest", "unix:path=/q"),
            *("-chardev", "socket,id=mon,path=/m", "-mon", "chardev=mon,mode=control"),
            *("-drive", "if=virtio,id=drive0,file=/a.qcow2,format=qcow2,aio=threads"),
            *("-device", "virtio-scsi-pci,id=scsi0", "--object", "iothread,id=t0"),
        ]
    )
    assert options.qtest == UnixAddress("/q")
    assert [monitor.chardev for monitor in options.monitors] == ["mon"]
    assert options.paused
    assert options.objects == [{"qom-type": "iothread", "id": "t0"}]
    assert options.devices == [{"driver": "virtio-scsi-pci", "id": "scsi0"}]
    (drive,) = options.drives
    assert (drive.id, drive.filename, drive.format) == ("drive0", "/a.qcow2", "qcow2")
    assert drive.device == "virtio-blk"


def test_system_monitor_named_before_its_chardev_is_found():
    options = system_options(["-mon", "chardev=m", "-chardev", "stdio,id=m"])
    assert options.chardevs == {"m": ChardevStdio("m")}


def test_system_chardev_on_a_descriptor_serves_qtest():
    options = system_options(["-chardev", "socket,id=q,fd=3", "-qtest", "chardev:q"])
    assert options.qtest == FdAddress(3)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["-frobnicate"], "-frobnicate: invalid option"),
        (["-drive"], "-drive: requires an argument"),
        (["-drive", "if=foo"], "-drive if=foo: unsupported bus type 'foo'"),
        (["-drive", "cache=foo"], "-drive cache=foo: invalid cache option"),
        (["-drive", "media=foo"], "-drive media=foo: 'foo' invalid media"),
        (["-drive", "werror=foo"], "-drive werror=foo: 'foo' invalid write error action"),
        (["-drive", "snapshot=on"], "-drive snapshot=on: 'snapshot' is not supported"),
        (["-monitor", "stdio"], "-monitor stdio: The human monitor is only there through"),
        (["-device", "id=x"], "-device id=x: Parameter 'driver' is missing"),
    ],
)
def test_system_bad_word_is_refused_and_named(words, message):
    with pytest.raises(CliError) as caught:
        system_options(words)
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["-M", "none", "-device", "help"], 'name "virtio-blk-pci", alias "virtio-blk"'),
        (["-drive", "format=help"], "Supported formats: blkdebug "),
        (["-machine", "help"], "(default)"),
    ],
)
def test_system_question_is_answered_and_nothing_starts(words, text, capsys):
    assert main(words, "qemu-system-x") == 0
    assert text in capsys.readouterr().out


def test_system_error_carries_the_name_of_the_program(capsys):
    assert main(["-frobnicate"], "qemu-system-x") == 1
    assert capsys.readouterr().err == "qemu-system-x: -frobnicate: invalid option\n"


@pytest.mark.parametrize(
    ("texts", "names"),
    [
        (["if=ide", "if=ide", "if=ide,media=cdrom"], ["ide0-hd0", "ide0-hd1", "ide1-cd0"]),
        (["if=none", "if=virtio", "if=virtio"], ["none0", "virtio0", "virtio1"]),
        (["if=none,id=x", "if=none"], ["x", "none1"]),
    ],
)
def test_drive_without_an_id_is_named_by_its_place(texts, names):
    parser = DriveParser()
    assert [parser.parse(text).id for text in texts] == names


def test_drive_members_are_nested_and_lists_are_lists():
    drive = DriveParser().parse(
        "if=none,id=d,driver=qcow2,cache=none,file.driver=blkdebug,"
        "file.image.filename=/a,,b,file.inject-error.0.event=pwritev"
    )
    assert drive.format == "qcow2"
    assert drive.members == {
        "auto-read-only": "on",
        "cache": {"direct": "on", "no-flush": "off"},
        "file": {
            "driver": "blkdebug",
            "image": {"filename": "/a,b"},
            "inject-error": [{"event": "pwritev"}],
        },
    }


def test_drive_twice_with_one_id_is_refused():
    parser = DriveParser()
    parser.parse("id=a")
    with pytest.raises(CliError, match="Duplicate ID 'a' for drive"):
        parser.parse("id=a")
