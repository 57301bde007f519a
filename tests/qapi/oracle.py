"""The real QEMU, asked many commands in one go."""

import json
import subprocess


def ask_qemu(commands, machine=("-machine", "none")):
    """Return the reply to each ``(name, arguments)``, in their order."""
    qemu = ["qemu-system-x86_64", *machine, "-nodefaults", "-display", "none", "-qmp", "stdio"]
    return ask_program(qemu, commands)


def ask_program(program, commands):
    """Return the reply to each command of a program whose monitor is its standard input."""
    with subprocess.Popen(
        program,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        bufsize=1,
    ) as process:

        def ask(name, arguments):
            """Return the reply, events left out. What is not read when QEMU quits would be lost."""
            process.stdin.write(json.dumps({"execute": name, "arguments": arguments}) + "\n")
            # What qemu-io prints comes between.
            replies = (json.loads(line) for line in process.stdout if line.startswith("{"))
            return next(reply for reply in replies if reply.keys() & {"return", "error"})

        ask("qmp_capabilities", {})
        answers = [ask(name, arguments) for name, arguments in commands]
        ask("quit", {})
        process.communicate(timeout=60)
    return answers
