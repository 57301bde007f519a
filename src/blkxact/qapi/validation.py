"""From the arguments of a command to an instance of its model, or to QEMU's error.

Invariants:

* The good case costs one call of a compiled pydantic validator, built when it is first used.
* The first error is reported, in the order in which the schema's members stand; members that the
  schema does not have come last in each object.

QEMU's counterpart: ``qapi/qobject-input-visitor.c`` and ``qapi/qapi-visit-core.c``, for the wording
and the order of errors.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, TypeVar, overload

from pydantic import BaseModel, TypeAdapter, ValidationError

from blkxact.errors import QmpError

from .common import NoArguments
from .describe import describe
from .explain import explain
from .strings import from_strings

_Model = TypeVar("_Model", bound=BaseModel)


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
        return _validator(model or NoArguments)(arguments, by_alias=True, by_name=False)
    except ValidationError as error:
        raise refusal(model or NoArguments, error) from None


def validate_keyval(model: Any, members: dict[str, Any]) -> Any:
    """Return the instance of ``model`` that ``members`` (of an option string) make.

    Texts are converted as the model wants them; members that came from JSON may have their types
    already. Raises ``QmpError`` in the words that QEMU has for a command line.
    """
    converted = from_strings(describe(model), members)
    try:
        return _validator(model)(converted, by_alias=True, by_name=False)
    except ValidationError as error:
        raise refusal(model, error, keyval=True) from None


def refusal(model: Any, error: ValidationError, *, keyval: bool = False) -> QmpError:
    """Return QEMU's error for the first thing that ``error`` complains about.

    ``keyval`` says that the input was an option string, which has words of its own.
    """
    first = error.errors(include_url=False, include_context=False)[0]
    return QmpError(explain(describe(model), first, keyval=keyval))


@cache
def _validator(model: Any) -> Callable[..., Any]:
    adapter: TypeAdapter[Any] = TypeAdapter(model)
    adapter.rebuild()
    return adapter.validator.validate_python
