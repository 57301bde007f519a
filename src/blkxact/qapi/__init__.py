"""The schema of QMP as pydantic models, one file per QAPI module."""
