"""The words of qemu-system-x86_64's command line: what is taken, ignored and refused."""

from __future__ import annotations

import re
import shutil
import subprocess

import pytest

from blkxact.cli import system_options as table
from blkxact.cli.drive import DriveParser
from blkxact.cli.errors import CliError
from blkxact.cli.machine_words import MachineWords
from blkxact.cli.system import main
from blkxact.cli.system_line import CommandLine
from blkxact.cli.system_options import takes_argument
from blkxact.machine.options import (
    ChardevStdio,
    FdAddress,
    FdSetEntry,
    InetAddress,
    MachineOptions,
    MonitorOptions,
    UnixAddress,
)


def system_options(words):
    return CommandLine("blkxact", "blkxact system").parse(words)


PC = "pc"
UUID = "01234567-89ab-cdef-0123-456789abcdef"
LIBVIRT_PROBE = (
    "-S -no-user-config -nodefaults -nographic -machine none,accel=kvm:tcg "
    "-qmp unix:/p/m,server=on,wait=off -pidfile /p/pid -daemonize"
)
LIBVIRT_DOMAIN = (
    "-name guest=N,debug-threads=on -S -object iothread,id=t0 -machine pc,usb=off -accel tcg "
    "-cpu qemu64 -m size=1024k -overcommit mem-lock=off -smp 1,sockets=1 "
    f"-uuid {UUID} -display none "
    "-no-user-config -nodefaults -chardev socket,id=charmonitor,fd=25,server=on,wait=off "
    "-mon chardev=charmonitor,id=monitor,mode=control -rtc base=utc -no-shutdown -no-acpi "
    '-boot strict=on -audiodev {"id":"a","driver":"none"} -msg timestamp=on '
    "-sandbox on,obsolete=deny"
)


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
    assert not options.clock_runs
    assert options.of("monitor") == [MonitorOptions("mon")]
    assert options.paused
    assert options.of("object") == [{"qom-type": "iothread", "id": "t0"}]
    (device,) = options.of("device")
    assert device.members == {"driver": "virtio-scsi-pci", "id": "scsi0"}
    (drive,) = options.of("drive")
    assert (drive.id, drive.filename, drive.format) == ("drive0", "/a.qcow2", "qcow2")
    assert drive.device == "virtio-blk"
    assert options.of("drive-device") == [drive]


def test_system_makes_things_in_qemus_order():
    options = system_options(
        [
            *("-device", "virtio-blk-pci,drive=d", "-mon", "chardev=m", "-drive", "if=none,id=d"),
            *("-blockdev", "null-co,node-name=n", "-chardev", "stdio,id=m"),
            *("-object", "iothread,id=t"),
        ]
    )
    kinds = [step.kind for step in options.steps]
    assert kinds == ["object", "chardev", "blockdev", "drive", "monitor", "device"]


@pytest.mark.parametrize("words", [LIBVIRT_PROBE, LIBVIRT_DOMAIN])
def test_system_words_of_libvirt_are_taken(words):
    options = system_options(words.split())
    assert options.paused
    assert [monitor.mode for monitor in options.of("monitor")] == ["control"]


def test_system_probe_of_libvirt_goes_to_the_background():
    options = system_options(LIBVIRT_PROBE.split())
    assert (options.daemonize, options.pidfile, options.pidfile_first) == (True, "/p/pid", True)


@pytest.mark.parametrize(
    ("words", "monitor", "chardev"),
    [
        (["-monitor", "stdio"], MonitorOptions("compat_monitor0", mode="readline"), None),
        (["-mon", "chardev=m", "-chardev", "stdio,id=m"],
         MonitorOptions("m", mode="readline"), ChardevStdio("m")),
        (["-qmp-pretty", "stdio"], MonitorOptions("compat_monitor0", pretty=True), None),
        (["-qmp", "chardev:m", "-chardev", "stdio,id=m"], MonitorOptions("m"), None),
    ],
)  # fmt: skip
def test_system_monitors_are_for_people_or_for_programs(words, monitor, chardev):
    options = system_options(words)
    assert options.of("monitor") == [monitor]
    (made,) = options.of("chardev")
    assert made == (chardev or ChardevStdio(monitor.chardev))


def test_system_chardev_on_a_descriptor_serves_qtest():
    options = system_options(["-chardev", "socket,id=q,fd=3", "-qtest", "chardev:q"])
    assert options.qtest == FdAddress(3)
    assert options.steps == []  # nobody else connects it
    assert system_options(["-qtest", "tcp:h:1"]).qtest == InetAddress("h", "1")


SOCKET = "socket,id=c,path=s"


@pytest.mark.parametrize(
    ("release", "text", "seconds"),
    [
        ("7.2", "reconnect=2", 2),
        ("10.0", "reconnect=2", 2),
        ("10.0", "reconnect-ms=500", 0.5),
        ("10.0", "reconnect-ms=500,server=on", 0),
        ("11.1", "reconnect-ms=500", 0.5),
    ],
)
def test_system_chardev_is_connected_again_as_the_release_says_it(release, text, seconds):
    options = system_options(["--emulate", release, "-chardev", f"{SOCKET},{text}"])
    (chardev,) = options.of("chardev")
    assert chardev.reconnect_s == seconds


@pytest.mark.parametrize(
    ("release", "text", "refusal"),
    [
        ("10.0", "reconnect=1,reconnect-ms=1",
         "'reconnect' and 'reconnect-ms' are mutually exclusive"),
        ("11.1", "reconnect=1", "Invalid parameter 'reconnect'"),
        ("11.1", "reconnect-ms=1,server=on",
         "'reconnect-ms' option is incompatible with socket in server listen mode"),
        ("11.1", "reconnect-ms=x", "Parameter 'reconnect-ms' expects a number"),
    ],
)  # fmt: skip
def test_system_reconnect_is_refused_as_the_release_does(release, text, refusal):
    with pytest.raises(CliError) as caught:
        system_options(["--emulate", release, "-chardev", f"{SOCKET},{text}"])
    assert str(caught.value) == f"-chardev {SOCKET},{text}: {refusal}"


def test_system_set_adds_a_member_to_an_option_before_it():
    words = ["-drive", "if=none,id=a", "-set", "drive.a.file=/x,y", "-set", "drive.a.format=raw"]
    (drive,) = system_options(words).of("drive")
    assert (drive.filename, drive.format) == ("/x,y", "raw")
    options = system_options(["-device", "scsi-hd,id=d", "-set", "device.d.drive=a"])
    (device,) = options.of("device")
    assert device.members == {"driver": "scsi-hd", "id": "d", "drive": "a"}
    assert not system_options(["-netdev", "user,id=n", "-set", "netdev.n.hostname=h"]).steps


def test_system_add_fd_is_an_entry_of_a_set():
    options = system_options(["-add-fd", "fd=9,set=2,opaque=x y"])
    assert options.of("fd") == [FdSetEntry(9, 2, "x y")]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["-frobnicate"], "-frobnicate: invalid option"),
        (["--frobnicate"], "--frobnicate: invalid option"),
        (["-drive"], "-drive: requires an argument"),
        (["-version", "-drive"], "-drive: requires an argument"),
        (["-old-param"], "Option not supported for this target"),
        (["-drive", "if=foo"], "-drive if=foo: unsupported bus type 'foo'"),
        (["-drive", "cache=foo"], "-drive cache=foo: invalid cache option"),
        (["-drive", "media=foo"], "-drive media=foo: 'foo' invalid media"),
        (["-drive", "werror=foo"], "-drive werror=foo: 'foo' invalid write error action"),
        (["-drive", "snapshot=foo"],
         "-drive snapshot=foo: Parameter 'snapshot' expects 'on' or 'off'"),
        (["-drive", "stats-intervals.1=9"],
         "-drive stats-intervals.1=9: Invalid option stats-intervals.1"),
        (["-drive", "stats-account-failed=a"],
         "-drive stats-account-failed=a: Parameter 'stats-account-failed' expects 'on' or 'off'"),
        (["-set", "foo"], '-set foo: can\'t parse: "foo"'),
        (["-set", "foo.a.b=c"], "-set foo.a.b=c: There is no option group 'foo'"),
        (["-set", "drive.a.file=c", "-drive", "id=a"],
         '-set drive.a.file=c: there is no drive "a" defined'),
        (["-object", "iothread,id=t", "-set", "object.t.poll-max-ns=1"],
         "-set object.t.poll-max-ns=1: -set is not supported with object"),
        (["-drive", "id=a", "-set", "drive.a.cache=foo"], "-drive id=a: invalid cache option"),
        (["-device", "id=x"], "-device id=x: Parameter 'driver' is missing"),
        (["-mon", "a,mode=b"], "-mon a,mode=b: Parameter 'mode' does not accept value 'b'"),
        (["-mon", "a,foo=on"], "-mon a,foo=on: Invalid parameter 'foo'"),
        (["-mon", "a,pretty=on"], "-mon a,pretty=on: 'pretty' is not compatible with HMP"),
        (["-mon", "mode=control"], "-mon mode=control: Parameter 'chardev' is missing"),
        (["-monitor", "stdio", "-qmp", "stdio"],
         "-qmp stdio: cannot use stdio by multiple character devices"),
        (["-daemonize", "-monitor", "stdio"], "-monitor stdio: cannot use stdio with -daemonize"),
        (["-chardev", "null,id=a", "-chardev", "null,id=a"],
         "-chardev null,id=a: Duplicate ID 'a' for chardev"),
        (["-qmp", "tcp:1"], "-qmp tcp:1: parse error: tcp:1"),
        (["-add-fd", "fd=1,set=2"], "-add-fd fd=1,set=2: fd cannot be a standard I/O stream"),
        (["-add-fd", "set=2"], "-add-fd set=2: fd option is required and must be non-negative"),
        (["-add-fd", "fd=9"], "-add-fd fd=9: set option is required and must be non-negative"),
        (["-readconfig", "/nope"],
         "-readconfig /nope: Could not open '/nope': No such file or directory"),
        (["-incoming", "foo"], "-incoming foo: unknown migration protocol: foo"),
    ],
)  # fmt: skip
def test_system_bad_word_is_refused_and_named(words, message):
    with pytest.raises(CliError) as caught:
        system_options(words)
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["-M", "none", "-device", "help"], 'name "virtio-blk-pci", bus PCI, alias "virtio-blk"'),
        (["-device", "virtio-blk-pci,help"], "virtio-blk-pci options:\n  account-failed=<"),
        (["-drive", "format=help"], "Supported formats: blkdebug "),
        (["-machine", "help"], "(default)"),
        (["-accel", "help"], "Accelerators supported in QEMU binary:\ntcg\nkvm\n"),
        (["-version"], "QEMU emulator version 7.2."),
        (["--emulate", "10.0", "--version"], "QEMU emulator version 10.0."),
        (["-h"], "usage: qemu-system-x [options] [disk_image]"),
        (["-chardev", "foo", "-help"], "usage: "),
    ],
)
def test_system_question_is_answered_and_nothing_starts(words, text, capsys):
    assert main(words, "qemu-system-x") == 0
    assert text in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "lines"),
    [
        (["-frobnicate"], ["-frobnicate: invalid option"]),
        (["-qmp", "foo"],
         ["-qmp foo: 'foo' is not a valid char driver", "-qmp foo: parse error: foo"]),
    ],
)  # fmt: skip
def test_system_error_carries_the_name_of_the_program(words, lines, capsys):
    assert main(words, "qemu-system-x") == 1
    assert capsys.readouterr().err == "".join(f"qemu-system-x: {line}\n" for line in lines)


def test_system_identifier_is_explained(capsys):
    assert main(["-chardev", "null,id=1"], "q") == 1
    assert capsys.readouterr().err.splitlines() == [
        "q: -chardev null,id=1: Parameter 'id' expects an identifier",
        "Identifiers consist of letters, digits, '-', '.', '_', starting with a letter.",
    ]


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


@pytest.mark.parametrize(
    ("words", "machine"),
    [
        ([], MachineOptions(PC, cpus=1, memory=128 << 20)),
        (["-machine", "none,accel=kvm:tcg"], MachineOptions("none", memory=128 << 20)),
        (["-M", "type=q35,usb=off"], MachineOptions("q35", cpus=1, memory=128 << 20)),
        (["-smp", "4,sockets=4", "-m", "64"], MachineOptions(PC, cpus=4, memory=64 << 20)),
        (["-smp", "cpus=2", "-m", "size=1G"], MachineOptions(PC, cpus=2, memory=1 << 30)),
        (["-name", "guest=n,debug-threads=on", "-uuid", UUID],
         MachineOptions(PC, "n", UUID, cpus=1, memory=128 << 20)),
    ],
)  # fmt: skip
def test_system_machine_is_remembered(words, machine):
    assert system_options(words).machine._replace(accelerator="tcg") == machine


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["-machine", "foo"], "unsupported machine type"),
        (["-m", "foo"], "-m foo: Parameter 'size' expects a non-negative number below 2^64"),
        (["-smp", "foo"], "Parameter 'smp.cpus' expects integer"),
        (["-uuid", "foo"], "-uuid foo: failed to parse UUID string: wrong format"),
    ],
)
def test_system_machine_without_sense_is_refused(words, message):
    with pytest.raises(CliError) as caught:
        system_options(words)
    assert str(caught.value) == message


# -readconfig

CONFIG = """\
# a comment
[chardev "mon"]
  backend = "socket"
  path = "/x,y"
  server = "on"

[mon "m"]
  chardev = "mon"
  mode = "control"
[machine]
  type = "pc"
[drive "d0"]
  if = "none"
  file = "/a.img"
"""


def test_readconfig_sections_are_options(tmp_path):
    path = tmp_path / "config"
    path.write_text(CONFIG)
    options = system_options(["-readconfig", str(path)])
    (chardev,) = options.of("chardev")
    assert (chardev.id, chardev.address, chardev.server) == ("mon", UnixAddress("/x,y"), True)
    assert options.of("monitor") == [MonitorOptions("mon", "m")]
    (drive,) = options.of("drive")
    assert (drive.id, drive.filename) == ("d0", "/a.img")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("foo\n", "q:{path}:1: parse error"),
        ('a = "b"\n', "q:{path}:1: no group defined"),
        ("[foo]\n", "q: -readconfig {path}: There is no option group 'foo'"),
        ('[chardev "1"]\n backend = "null"\n', "q:{path}:2: Parameter 'id' expects an identifier"),
    ],
)
def test_readconfig_error_has_its_place(tmp_path, capsys, text, message):
    path = tmp_path / "config"
    path.write_text(text)
    assert main(["-readconfig", str(path)], "q") == 1
    assert capsys.readouterr().err.splitlines()[0] == message.format(path=path)


# The table of all options

QEMU = shutil.which("qemu-system-x86_64")
ALL = frozenset().union(
    *(table.GUEST_SWITCHES, table.GUEST_OPTIONS, table.SWITCHES, table.OPTIONS),
    table.REFUSED_OPTIONS,
)


OURS = {"emulate", "run-with", "record", "record-limit", "testing"}
"""Options that QEMU does not have."""


@pytest.mark.qemu
def test_every_option_of_qemu_is_known():
    text = subprocess.run([QEMU, "-help"], capture_output=True, text=True, check=True).stdout
    names = set(re.findall(r"^(?:-h or )?-{1,2}([\w-]+)", text, re.MULTILINE))
    assert len(names) > 100
    assert {name for name in names if takes_argument(name.removeprefix("-")) is None} == set()


@pytest.mark.qemu
@pytest.mark.parametrize("name", sorted(ALL - OURS - {"h"}))
def test_option_takes_an_argument_as_in_qemu(name):
    done = subprocess.run(
        [QEMU, "-version", f"-{name}"], capture_output=True, text=True, check=False
    )
    refusal = f"qemu-system-x86_64: -{name}: requires an argument\n"
    assert (done.stderr == refusal) is takes_argument(name), done


@pytest.mark.parametrize(
    ("words", "has_kvm", "kvm"),
    [
        ({}, True, False),
        ({"machine": "none,accel=kvm:tcg"}, True, True),
        ({"machine": "none,accel=kvm:tcg"}, False, False),
        ({"machine": "none,accel=tcg:kvm"}, True, False),
        ({"accel": "kvm"}, True, True),
        ({"accel": "tcg,thread=single"}, True, False),
        ({"enable-kvm": ""}, True, True),
    ],
)
def test_system_uses_kvm_where_it_comes_first_and_the_host_has_it(words, has_kvm, kvm):
    machine = MachineWords(host_has_kvm=lambda: has_kvm)
    for option, text in words.items():
        machine.take(option, text)
    assert (machine.options().accelerator == "kvm") is kvm


def test_the_clock_of_a_test_machine_runs_if_it_has_another_accelerator_too():
    words = ["-qtest", "unix:path=/q", "-accel", "qtest", "-accel"]
    for accelerator in ("tcg", "kvm,dirty-ring-size=1", "accel=tcg"):
        assert system_options([*words, accelerator]).clock_runs
    assert not system_options([*words, "accel=qtest"]).clock_runs
