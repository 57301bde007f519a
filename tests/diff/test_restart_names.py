"""Names that a program makes up may come again after a restart."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

PROGRAM = """\
import json, pathlib, socket, sys
number = int(sys.argv[1])
starts = pathlib.Path("starts")
start = starts.stat().st_size if starts.exists() else 0
starts.write_bytes(b"x" * (start + 1))
listener = socket.socket(socket.AF_UNIX)
pathlib.Path("qmp").unlink(missing_ok=True)
listener.bind("qmp")
listener.listen()
connection = listener.accept()[0]
monitor = connection.makefile("w")
version = {"qemu": {"major": 7, "minor": 2, "micro": 0}}
monitor.write(json.dumps({"QMP": {"version": version}}) + "\\n")
node = {"node-name": f"#block{100 + number * start}", "drv": "null-co", "file": ""}
answers = {
    "query-named-block-nodes": [node],
    "x-debug-query-block-graph": {"nodes": [], "edges": []},
    "qmp_capabilities": {},
    "quit": {},
}
monitor.flush()
for line in filter(str.strip, connection.makefile("r")):
    message = json.loads(line)
    name = message.pop("execute")
    message.pop("arguments", None)
    monitor.write(json.dumps({"return": answers.get(name, []), **message}) + "\\n")
    monitor.flush()
    if name == "quit":
        break
"""
"""Has one node, whose name is ``#block100`` at first and then counts by its first argument."""


def test_name_made_up_again_after_a_restart_is_no_difference(tmp_path: Path) -> None:
    fake = tmp_path / "fake.py"
    fake.write_text(PROGRAM)
    script = tmp_path / "script"
    script.write_text("restart\n")
    ours, theirs = [f"{sys.executable} {fake} {number}" for number in (0, 1)]
    done = subprocess.run(
        [
            *(sys.executable, "-m", "blkxact", "diff", "--no-shrink", "--save", str(tmp_path)),
            *("--program", ours, "--against", theirs, str(script)),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "1 commands, 0 scripts with a difference\n")
