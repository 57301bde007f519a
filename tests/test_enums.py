"""Each enumeration of QAPI stands once."""

from __future__ import annotations

import ast
import json
from pathlib import Path

import pytest

import blkxact
from blkxact import enums
from blkxact.block.types import Permission
from blkxact.drivers import DRIVERS
from blkxact.drivers.blkdebug import PERMISSIONS
from blkxact.enums import BlockPermission
from blkxact.job.completion import POLICIES
from blkxact.job.states import TRANSITIONS, VERBS
from blkxact.qapi.blockdev import BlockdevOptions
from blkxact.qapi.describe import Enum, Union_, describe

NAMED = [getattr(enums, name) for names in enums.INDEX.values() for name in names]


@pytest.mark.parametrize("enumeration", NAMED)
def test_members_are_their_names_on_the_wire(enumeration):
    assert describe(enumeration) == Enum(tuple(enumeration))
    for member in enumeration:
        assert member.name == member.value.upper().replace("-", "_")
        assert json.dumps(member) == f'"{member}"'
        assert enumeration.named(str(member)) is member
    assert enumeration.named("no such member") is None


def test_tables_that_go_by_an_enumeration_have_all_of_it():
    options = describe(BlockdevOptions)
    assert isinstance(options, Union_)
    assert set(options.branches) == set(DRIVERS)
    assert set(PERMISSIONS) == set(BlockPermission)
    assert sum(PERMISSIONS.values()) == Permission.ALL
    assert set(POLICIES) == set(enums.ActionCompletionMode)
    assert set(TRANSITIONS) == set(enums.JobStatus)
    assert set(VERBS) == set(enums.JobVerb)


def test_no_literal_in_the_models_repeats_an_enumeration():
    known = {frozenset(one): one.__name__ for one in NAMED if len(one) > 1}
    repeated = []
    for path in (Path(blkxact.__file__).parent / "qapi").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Subscript) and ast.unparse(node.value) == "Literal":
                names = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
                texts = frozenset(each.value for each in names if isinstance(each, ast.Constant))
                if texts in known:
                    repeated.append((path.name, node.lineno, known[texts]))
    assert repeated == []
