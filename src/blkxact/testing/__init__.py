"""A world in which to test: an event loop and a storage whose accidents come from a seed.

``loop`` runs coroutines in virtual time and in a random but repeatable order. ``memory_file`` is a
storage that locks as QEMU does, fails on demand, and loses or tears what was not flushed when the
power goes. ``docs/testing.md`` has the fault model.
"""
