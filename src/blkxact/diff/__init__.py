"""The differential check: the same commands to blkxact and to QEMU, and what differs.

generate.py      a seed → random lines: commands from random_nodes.py, random_filters.py,
                 random_jobs.py and random_machine.py
world.py         what is there, so that random commands can name it
draw.py          random choices, and the names that random commands use
script.py        a script: its lines, and what each one is
lines.py         where the lines of a run come from
emulator.py      one program with QEMU's command line, and its monitor
sides.py         both programs at once: a line to each, and how they differ then
observe.py       what is looked at after each command, and at the end in the images
mask.py          what two runs cannot have in common: times, paths, generated names
differences.py   where two values differ
known.py         the differences on purpose, read from docs/differences-from-qemu.md
compare.py       run a script on both sides; the first difference
shrink.py        the shortest script that still shows a difference
"""
