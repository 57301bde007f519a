"""The real programs, asked many commands in one go."""

import json
import subprocess

SYSTEM = (
    *("qemu-system-x86_64", "-machine", "none", "-nodefaults", "-display", "none", "-S"),
    *("-qmp", "stdio"),
)
STORAGE_DAEMON = ("qemu-storage-daemon", "--chardev", "stdio,id=c", "--monitor", "c")
TIMEOUT_S = 60


def ask_program(program, commands):
    """Return the reply to each ``(name, arguments)`` of a program with its monitor on stdio."""
    requests = [("qmp_capabilities", {}), *commands, ("quit", {})]
    lines = (json.dumps({"execute": name, "arguments": words}) for name, words in requests)
    done = subprocess.run(
        program,
        input="\n".join(lines),
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=True,
    )
    messages = [json.loads(line) for line in done.stdout.splitlines()]
    replies = [message for message in messages if message.keys() & {"return", "error"}]
    assert len(replies) == len(requests)
    return replies[1:-1]
