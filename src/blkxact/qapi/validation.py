"""From the arguments of a command to an instance of its model, or to QEMU's error.

Invariants:

* Nothing is made of a model before the first value for it comes (see ``check.py``).
* The first error is reported, in the order of the schema.

QEMU's counterpart: the marshalling functions that ``scripts/qapi/commands.py`` makes.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any, TypeVar, overload

from blkxact.errors import QmpError

from .check import BadValueError, Check, check_of
from .common import NoArguments, QapiModel
from .describe import describe
from .strings import from_strings

_Model = TypeVar("_Model", bound=QapiModel)


@overload
def validate(model: type[_Model], arguments: Mapping[str, Any]) -> _Model: ...


@overload
def validate(model: Any, arguments: Mapping[str, Any]) -> Any: ...


def validate(model: Any, arguments: Mapping[str, Any]) -> Any:
    """Return the instance of ``model`` that ``arguments`` (a JSON object of QMP) make.

    ``model`` is a ``QapiModel``, a union of them (``BlockdevOptions``), or ``None`` for a command
    without arguments. Raises ``QmpError`` (GenericError) in QEMU's words.
    """
    try:
        return _check(model or NoArguments)(arguments, 0)
    except BadValueError as error:
        raise QmpError(error.text(keyval=False)) from None


def validate_keyval(model: Any, members: dict[str, Any]) -> Any:
    """Return the instance of ``model`` that ``members`` (of an option string) make.

    Texts are converted as the model wants them; members that came from JSON may have their types
    already. Raises ``QmpError`` in the words that QEMU has for a command line.
    """
    converted = from_strings(describe(model), members)
    try:
        return _check(model)(converted, 0)
    except BadValueError as error:
        raise QmpError(error.text(keyval=True)) from None


@cache
def _check(model: Any) -> Check:
    return check_of(describe(model))
