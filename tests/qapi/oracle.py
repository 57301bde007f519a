"""The real QEMU, asked many commands in one go."""

import json
import subprocess


def ask_qemu(commands, machine=("-machine", "none")):
    """Return the reply to each ``(name, arguments)``, in their order."""
    asked = [{"execute": "qmp_capabilities"}]
    asked += [
        {"execute": name, "arguments": arguments, "id": index}
        for index, (name, arguments) in enumerate(commands)
    ]
    qemu = ["qemu-system-x86_64", *machine, "-nodefaults", "-display", "none"]
    run = subprocess.run(
        [*qemu, "-qmp", "stdio"],
        input="\n".join(json.dumps(each) for each in [*asked, {"execute": "quit"}]),
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    replies = (json.loads(line) for line in run.stdout.splitlines())
    by_id = {reply["id"]: reply for reply in replies if "id" in reply}
    return [by_id[index] for index in range(len(commands))]
