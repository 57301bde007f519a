"""Figures: blkxact beside qemu-storage-daemon, in one run on one machine.

``python -m bench --help`` tells the subjects. A figure counts only when both servers did the same
work in the same run: the same client, alternating turns, the median of all turns.
"""
