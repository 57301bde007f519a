"""``blkxact prove``: every single fault tried on a backup tool, and what its claims are worth.

``scenario`` says how the tool is called. ``sweep`` runs it once without faults, takes from the
record of that run all the faults that can happen (``faults``), and runs a case for each. A case
(``case``) is a pure function of the scenario, its faults and its seed: it forks an emulator
(``emulator`` is the part in that process, ``process`` the handle of it), calls the tool
(``client``), and compares what it restores with what the guest wrote (``history``, ``judgement``).
``findings`` puts cases of one cause together and says what went wrong; ``store`` keeps verdicts.
"""
