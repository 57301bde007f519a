"""The schema of QMP as models, one file per QAPI module."""
