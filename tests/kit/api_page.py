"""Makes docs/kit-api.md from the signatures and docstrings of the kit.

``python -m tests.kit.api_page`` writes it; ``test_api_page.py`` checks that it is up to date.
"""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from blkxact.harness import Disk
from blkxact.kit import Emulator, KitError, QmpError
from blkxact.kit import pytest_plugin as plugin
from blkxact.kit.clock import Clock
from blkxact.kit.contents import Contents
from blkxact.kit.events import Events
from blkxact.kit.faults import CommandFaults, Fault, Faults
from blkxact.kit.guest import Guest
from blkxact.kit.options import read_options
from blkxact.kit.pause import Pause

PAGE = Path(__file__).parents[2] / "docs" / "kit-api.md"
HEAD = """\
# The API of the kit for pytest

Every public name, with its signature. [kit.md](kit.md) describes the kit with examples. This page
is written by `python -m tests.kit.api_page` from the docstrings; a test checks it.
"""
CLASSES = (
    *(Emulator, Disk, Guest, Events, Contents, Faults, CommandFaults, Fault, Pause, Clock),
    *(KitError, QmpError),
)
INHERITED = {Events: "`collections.abc.Sequence`", Contents: "`bytes`"}
NOT_FOR_TESTS = {
    Emulator: {"close"},
    Events: {"add"},
    Disk: {"blockdev", "device_add", "format", "model"},
    Pause: {"place", "owner", "reached", "over", "deadly"},
    Fault: {"place"},
    QmpError: {"as_reply"},
}
"""Names that only the kit itself uses."""


def page() -> str:
    """Return the text of the page."""
    parts = [HEAD, *_fixture()]
    for kind in CLASSES:
        parts += _class(kind)
    return "\n".join(parts)


def _fixture() -> Iterator[str]:
    yield "## The fixture and the markers\n"
    yield "`blkxact` is an `Emulator`. " + _text(plugin.blkxact) + "\n"
    yield f"`@pytest.mark.blkxact{_signature(read_options, skip=0, result=False)}`\n"
    for line in plugin.MARKERS.splitlines():
        name, _, text = line.partition("): ")
        if name.startswith("every_fault"):
            yield f"`@pytest.mark.{name})`: {text}.\n"


def _class(kind: type) -> Iterator[str]:
    module = kind.__module__ if kind not in (Emulator, KitError, QmpError) else "blkxact.kit"
    yield f"## `{module}.{kind.__qualname__}`\n"
    yield _text(kind) + "\n"
    if kind in INHERITED:
        yield f"A subclass of {INHERITED[kind]}.\n"
    for name, shown, text in _members(kind):
        if name not in NOT_FOR_TESTS.get(kind, ()):
            yield textwrap.indent(f"`{shown}`\n\n{text}\n", "  ").replace("  `", "- `", 1)


def _members(kind: type) -> Iterator[tuple[str, str, str]]:
    """Yield the name, the signature and the text of each public member."""
    [tree] = ast.parse(textwrap.dedent(inspect.getsource(kind))).body
    assert isinstance(tree, ast.ClassDef)
    yield from _attributes(tree)
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name[0] != "_":
            member = inspect.getattr_static(kind, node.name)
            if isinstance(member, property):
                assert node.returns is not None
                yield node.name, f"{node.name}: {ast.unparse(node.returns)}", _text(member)
            else:
                begin = "await " if isinstance(node, ast.AsyncFunctionDef) else ""
                yield node.name, f"{begin}{node.name}{_signature(member)}", _text(member)


def _attributes(tree: ast.ClassDef) -> Iterator[tuple[str, str, str]]:
    """Yield what is assigned to in the class or in ``__init__``, with the text that follows."""
    bodies = [tree.body, *(one.body for one in tree.body if getattr(one, "name", "") == "__init__")]
    for body in bodies:
        for node, after in zip(body, [*body[1:], None], strict=True):
            name, kind = _assigned(node)
            if name is None or name[0] == "_":
                continue
            text = ""
            if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant):
                text = _one_line(str(after.value.value))
            yield name, name + (f": {kind}" if kind else ""), text or "see above"


def _assigned(node: ast.stmt) -> tuple[str | None, str]:
    if isinstance(node, ast.AnnAssign):
        target, kind = node.target, ast.unparse(node.annotation)
    elif isinstance(node, ast.Assign):
        target, kind = node.targets[0], ""
        if isinstance(node.value, ast.Call) and isinstance(node.value.func, ast.Name):
            kind = node.value.func.id
    else:
        return None, ""
    if isinstance(target, ast.Attribute):
        return target.attr, kind
    return (target.id if isinstance(target, ast.Name) else None), kind


def _signature(function: Any, skip: int = 1, *, result: bool = True) -> str:
    found = inspect.signature(function)
    words, named_only = [], False
    for one in list(found.parameters.values())[skip:]:
        if one.kind is one.KEYWORD_ONLY and not named_only:
            words += ["*"]
            named_only = True
        star = {one.VAR_KEYWORD: "**", one.VAR_POSITIONAL: "*"}.get(one.kind, "")
        default = "" if one.default is one.empty else f" = {one.default!r}"
        words.append(f"{star}{one.name}: {one.annotation}{default}")
        if one.kind is one.POSITIONAL_ONLY:
            words.append("/")
    shown = f"({', '.join(words)})"
    return shown + (f" -> {found.return_annotation}" if result else "")


def _text(thing: Any) -> str:
    return _one_line(inspect.getdoc(thing) or "")


def _one_line(text: str) -> str:
    """Return a docstring with each of its paragraphs in one line, for Markdown."""
    paragraphs = inspect.cleandoc(text).split("\n\n")
    return "\n\n".join(" ".join(each.split()) for each in paragraphs).replace("``", "`")


if __name__ == "__main__":
    PAGE.write_text(page())
