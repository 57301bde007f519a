"""Errors that a client sees, in QEMU's classes and wording.

There are two kinds:

* ``QmpError``: a command cannot be done. It carries the QAPI error class and the description that
  goes into the reply. It is raised in any module and caught once, where the reply is made.
* ``OSError``: a request on an image failed. It carries the errno that the guest, or the error
  policy of a job, acts upon.

Source: ``qapi/error.json`` (QapiErrorClass).
"""

from __future__ import annotations

import os
from enum import StrEnum


class ErrorClass(StrEnum):
    """QapiErrorClass."""

    GENERIC_ERROR = "GenericError"
    COMMAND_NOT_FOUND = "CommandNotFound"
    DEVICE_NOT_ACTIVE = "DeviceNotActive"
    DEVICE_NOT_FOUND = "DeviceNotFound"
    KVM_MISSING_CAP = "KVMMissingCap"


class QmpError(Exception):
    """A command was refused."""

    def __init__(self, desc: str, error_class: ErrorClass = ErrorClass.GENERIC_ERROR) -> None:
        super().__init__(desc)
        self.desc: str = desc
        """What is wrong, in QEMU's words."""
        self.error_class: ErrorClass = error_class
        """The class that the reply has."""

    def as_reply(self) -> dict[str, str]:
        """Return the ``error`` member of a QMP reply."""
        return {"class": str(self.error_class), "desc": self.desc}


def hints(error: BaseException) -> list[str]:
    """Return QEMU's hints to a person (error_append_hint), which are printed below an error.

    They are the notes of the error and of those that it was raised from. QMP replies have none.
    """
    found = list(getattr(error, "__notes__", ()))
    return found + hints(error.__cause__) if error.__cause__ is not None else found


def device_not_found(name: str) -> QmpError:
    """Return QEMU's error for a device that is not there."""
    return QmpError(f"Device '{name}' not found", ErrorClass.DEVICE_NOT_FOUND)


def strerror(error: OSError) -> str:
    """Return the text of the error's errno, as QEMU's ``error_setg_errno`` appends it."""
    return os.strerror(error.errno) if error.errno else str(error)


def os_error(number: int) -> OSError:
    """Return the error of a request that failed with this errno."""
    return OSError(number, os.strerror(number))
