"""The real QEMU, asked many commands in one go, or spoken to step by step."""

import json
import subprocess
import time

TIMEOUT_S = 60


class Qemu:
    """A QEMU with its monitor on stdio; ``events`` are those that came with replies so far."""

    def __init__(self, machine=("-machine", "none"), cwd=None):
        self.events = []
        command = ["qemu-system-x86_64", *machine, "-nodefaults", "-display", "none"]
        self._process = subprocess.Popen(
            [*command, "-qmp", "stdio"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            bufsize=1,
            cwd=cwd,
        )

    def __enter__(self):
        self._process.__enter__()
        self.ask("qmp_capabilities", {})
        return self

    def __exit__(self, *exception):
        if exception[0] is None:
            self.ask("quit", {})
            self._process.communicate(timeout=TIMEOUT_S)
        else:
            self._process.kill()
        self._process.__exit__(*exception)

    def ask(self, name, arguments):
        """Return the reply to a command. What is not read when QEMU quits would be lost."""
        line = json.dumps({"execute": name, "arguments": arguments})
        self._process.stdin.write(line + "\n")
        for line in self._process.stdout:
            if not line.startswith("{"):  # what qemu-io prints
                continue
            reply = json.loads(line)
            if reply.keys() & {"return", "error"}:
                return reply
            if "event" in reply:
                self.events.append(reply)
        raise AssertionError("QEMU has ended")

    def ask_until(self, name, condition):
        """Ask a query again and again until its result fulfils a condition."""
        deadline = time.monotonic() + TIMEOUT_S
        while not condition(result := self.ask(name, {})["return"]):
            assert time.monotonic() < deadline, result


def ask_qemu(commands, machine=("-machine", "none")):
    """Return the reply to each ``(name, arguments)``, in their order; events are left out."""
    with Qemu(machine) as qemu:
        return [qemu.ask(name, arguments) for name, arguments in commands]
