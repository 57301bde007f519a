"""Hostile inputs: what they are made of, what must hold for them, and a fuzzer that looks for more.

``make fuzz`` runs it; ``tests/fuzz`` replays what it has found. See docs/testing.md.
"""
