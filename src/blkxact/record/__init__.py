"""The record of a run: what happened in an emulator, one JSON object a line.

``writer`` is the bounded file, ``recorder`` listens to one emulator, ``reader`` reads it back.
``docs/report.md`` describes the lines.
"""
