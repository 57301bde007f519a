"""The ``transaction`` command: a union of actions, and what they have in common.

The actions are those of ``blkxact.actions``, where each says its kind and the model of its
arguments; ``transaction_model`` makes the model of the command from these.

``TransactionProperties`` has two things that QEMU lacks: the completion mode ``deferred``, and
``id``.

QEMU's counterpart: ``qapi/transaction.json``.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import reduce
from operator import or_
from typing import Annotated, Any, Literal

from blkxact.enums import ActionCompletionMode

from .common import Discriminator, Opt, QapiModel


class Abort(QapiModel):
    """Makes the transaction fail."""


class TransactionProperties(QapiModel):
    """What holds for the transaction as a whole."""

    completion_mode: Opt[ActionCompletionMode] = None
    """``None`` is the server's default: what ``--completion-mode`` says, or ``individual``."""
    id: Opt[str] = None
    """Names the transaction in ``query-transactions`` and its TRANSACTION_COMPLETED (not QEMU)."""


def transaction_model(actions: Mapping[str, type[QapiModel]]) -> type[QapiModel]:
    """Return the arguments of ``transaction`` with these actions: kind to arguments.

    It has ``actions``, a list of wrappers with ``type`` and ``data``, and ``properties``.
    """
    wrappers = [_wrapper(kind, data) for kind, data in actions.items()]
    action: Any = Annotated[reduce(or_, wrappers), Discriminator("type")]
    members = {"actions": list[action], "properties": TransactionProperties}
    return _model("Transaction", members, properties=None)


def _wrapper(kind: str, data: type[QapiModel]) -> Any:
    name = "".join(map(str.capitalize, kind.split("-"))) + "Wrapper"
    literal: Any = Literal
    return _model(name, {"type": literal[kind], "data": data})


def _model(name: str, members: dict[str, Any], **defaults: Any) -> type[QapiModel]:
    return type(name, (QapiModel,), {"__annotations__": members, **defaults})
