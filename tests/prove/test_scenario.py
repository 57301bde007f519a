"""A scenario with a mistake gets one line that names file, key and reason."""

from __future__ import annotations

from pathlib import Path

import pytest

from blkxact.prove.scenario import ScenarioError, load

DISK = '[[disk]]\nname = "vda"\nsize = "8M"\n'
START = '[emulator]\nstart = "%s"\n'
CLIENT = '[client]\nfull = "a"\nincremental = "b"\nrestore = "c {disk} {out}"\n'


def scenario(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "s.toml"
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("x = ", "Invalid value (at end of document)"),
        (CLIENT, "disk: it is missing"),
        (DISK, "client: it is missing"),
        (DISK + CLIENT + "cycel = 3\n", "client.cycel: there is no such key"),
        ("here = 1\n" + DISK + CLIENT, "here: there is no such key"),
        (DISK.replace("8M", "8 miles") + CLIENT, "disk.0.size: a size is a number and K, M or G"),
        (DISK.replace("8M", "9T") + CLIENT, "disk.0.size: a size is a number"),
        (DISK.replace("8M", "4K") + CLIENT, "disk.0.size: a disk has 1M to 1G, in whole M"),
        (DISK + DISK + CLIENT, "two disks are called 'vda'"),
        (DISK + CLIENT.replace('"a"', '""'), "client.full: the command is empty"),
        (DISK + CLIENT.replace('"a"', '"a {stor}"'), "client: full: there is no {stor}; there are"),
        (DISK + CLIENT.replace('"a"', '"a {out}"'), "client: full: there is no {out}"),
        (DISK + CLIENT.replace("{out}", ""), "client: restore: it has to name {out}"),
        (DISK + CLIENT + "timeout = 0\n", "client.timeout: Input should be greater than 0"),
        (DISK + CLIENT + 'cycle = ["half"]\n', "client.cycle.0: Input should be 'full' or"),
        (START % "a" + DISK + CLIENT, "emulator: start: it has to name {emulator}, the program"),
        (START % "a {out}" + DISK + CLIENT, "emulator: start: there is no {out}; there are {dir}"),
        (START % "{emulator}" + 'options = ["-S"]\n' + DISK + CLIENT, "start: goes with neither"),
        (DISK + '[[disk]]\nname = "vdb"\nsize = "1M"\n' + CLIENT.replace("{disk}", ""), "restore"),
    ],
)
def test_mistake_is_reported_in_one_line(tmp_path: Path, text: str, reason: str):
    path = scenario(tmp_path, text)
    with pytest.raises(ScenarioError) as caught:
        load(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert reason in str(caught.value)
    assert "\n" not in str(caught.value)


def test_placeholders_are_replaced_and_braces_of_a_shell_are_left(tmp_path: Path):
    text = DISK + CLIENT.replace('"a"', """'sh -c "echo ${x} {qmp}" {tool}'""")
    read = load(scenario(tmp_path, text), tmp_path / "t.py")
    words = read.words(read.client.full, {"qmp": "Q P", "tool": read.tool})
    assert words == ["sh", "-c", "echo ${x} Q P", str(tmp_path / "t.py")]
    assert read.disk[0].size == 8 << 20
