"""Words that QEMU refuses on its command line are refused alike: text, and exit status 1."""

from __future__ import annotations

import subprocess

import pytest
from cli_runs import TIMEOUT
from programs import SYSTEM

QUIT = b'{"execute":"qmp_capabilities"}{"execute":"quit"}'
BASE = ("-M", "none", "-nodefaults", "-display", "none", "-S", "-qmp", "stdio")
ORACLE = "qemu-system-x86_64"
RAW = "file=d.raw,format=raw"

REFUSED = [
    "-accel foo",
    "-action foo=x",
    "-blockdev {",
    "-blockdev null-co,node-name=f -drive if=none,id=f",
    "-boot foo=x",
    "-boot menu=x",
    "-boot splash-time=x",
    "-chardev file,id=a",
    "-chardev pipe,id=a",
    "-chardev ringbuf,id=a,size=3",
    "-chardev ringbuf,id=a,size=x",
    "-chardev socket,id=a,host=x,port=1,to=x",
    "-chardev socket,id=a,path=s,server=maybe",
    "-chardev socket,id=a,path=s,server=on,wait=off,reconnect=5",
    "-chardev socket,id=a,path=s,server=on,wait=off,reconnect=0",
    "-chardev socket,id=a,fd=9,reconnect=5",
    "-chardev socket,id=a,path=s,reconnect=x",
    "-chardev socket,id=a,path=s,reconnect=1k",
    "-chardev socket,id=a,path=s,reconnect=5,wait=off",
    "-chardev socket,id=a,path=nobody,reconnect=-1",
    "-chardev socket,id=a,path=s,reconnect-ms=5",
    f"-drive if=none,{RAW},aio=foo",
    f"-drive if=none,{RAW},aio=native",
    f"-drive if=none,{RAW},boot=on",
    f"-drive if=none,{RAW},cache.writeback=x",
    f"-drive if=none,{RAW},index=x",
    f"-drive if=none,{RAW},index=1,bus=2",
    f"-drive if=none,{RAW},index=1,unit=2",
    f"-drive if=none,index=1,{RAW} -drive if=none,index=1,{RAW}",
    f"-drive if=none,{RAW},readonly=on,read-only=on",
    f"-drive if=none,{RAW},serial=foo",
    f"-drive if=none,{RAW},stats-account-failed=x",
    f"-drive if=none,{RAW},throttling.bps-total=x",
    f"-drive if=none,{RAW},unit=x",
    f"-drive if=none,id=9a,{RAW}",
    f"-drive if=none,id=f,node-name=f,{RAW}",
    "-drive if=none,serial=x",
    "-fw_cfg foo=x",
    "-global foo=x",
    "-icount foo=x",
    "-m foo=1",
    "-m 64M,slots=x",
    "-machine none,accel=foo",
    "-monitor unix:m,server=on,wait=off,foo=1",
    "-msg foo=on",
    "-msg timestamp=x",
    "-name foo,debug-threads=x",
    "-name guest=foo,bar=x",
    "-option-rom foo=x",
    "-overcommit foo=x",
    "-rtc foo=x",
    "-runas nobody-there",
    "-sandbox foo",
    "-sandbox on,foo=x",
    "-smp 1,sockets=x",
    "-smp cpus=x",
    "-smp foo=2",
    "-trace foo=x",
    "-vnc none,foo=x",
]
TAKEN = [
    "-boot order=c,strict=on,menu=on",
    "-chardev ringbuf,id=a,size=16384B",
    f"-drive if=none,{RAW},aio=native,cache=none",
    "-machine none,accel=kvm:tcg",
    "-name guest=foo,debug-threads=on,process=x",
    "-overcommit mem-lock=off",
    "-rtc base=utc",
    "-sandbox on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny",
]


def ended(program, words, directory):
    """Return exit status and standard error of a program that is told to quit."""
    done = subprocess.run(
        [program, *BASE, *words.split()],
        input=QUIT,
        capture_output=True,
        check=False,
        timeout=TIMEOUT,
        cwd=directory,
    )
    return done.returncode, done.stderr.decode().replace(ORACLE, "blkxact-system-x86_64")


@pytest.mark.qemu
@pytest.mark.parametrize("words", [*REFUSED, *TAKEN])
def test_words_are_taken_or_refused_as_qemu_does(words, image_dir):
    (image_dir / "d.raw").write_bytes(bytes(1 << 20))
    status, text = ended(SYSTEM, words, image_dir)
    assert (status, text) == ended(ORACLE, words, image_dir)
    assert status == int(words in REFUSED)
