"""Modules that import each other, if only for types, are few, and each such circle has a reason."""

from __future__ import annotations

import ast
from collections.abc import Container, Iterator
from pathlib import Path

import blkxact

ALLOWED = {
    # A node holds a driver, the driver's children are edges to nodes, and an edge has a node at
    # both ends. What a driver is opened with leads to the graph.
    frozenset(
        f"blkxact.block.{name}"
        for name in (
            *("adapted_requests", "child", "drain", "driver_api", "graph", "graph_change", "node"),
            *("node_filename", "node_links", "open_context", "parents", "permissions", "status"),
        )
    ),
}

Graph = dict[str, set[str]]


def test_every_import_circle_is_allowed_for_a_reason():
    circles = set(find_circles(imports(Path(blkxact.__file__).parent)))
    new = [sorted(circle) for circle in circles if not any(circle <= known for known in ALLOWED)]
    assert new == []
    gone = [sorted(known) for known in ALLOWED if not any(circle <= known for circle in circles)]
    assert gone == []


def test_circles_are_found_through_types_and_through_others():
    graph = {"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}
    assert list(find_circles(graph)) == [frozenset("abc")]
    tree = ast.parse("if TYPE_CHECKING:\n    from .b import B")
    assert imported(tree, "p.a", {"p", "p.a", "p.b"}, is_package=False) == {"p.b"}


def imports(package: Path) -> Graph:
    """Return which modules of the package each of its modules names in an import, wherever."""
    files = {module_name(path, package.parent): path for path in package.rglob("*.py")}
    graph: Graph = {}
    for name, path in files.items():
        tree = ast.parse(path.read_text())
        graph[name] = imported(tree, name, files, is_package=path.name == "__init__.py")
    return graph


def module_name(path: Path, root: Path) -> str:
    parts = path.relative_to(root).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported(tree: ast.AST, name: str, modules: Container[str], *, is_package: bool) -> set[str]:
    """Return the ``modules`` that module ``name`` imports, wherever in its text."""
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            here = name.split(".")
            start = here[: len(here) + is_package - node.level] if node.level else []
            base = ".".join([*start, *filter(None, [node.module])])
            whole = [f"{base}.{alias.name}" for alias in node.names]
            found.update(each if each in modules else base for each in whole)
    return {each for each in found if each in modules and each != name}


def find_circles(graph: Graph) -> Iterator[frozenset[str]]:
    """Yield the sets of modules that reach each other (Tarjan's strongly connected components)."""
    order: dict[str, int] = {}
    low: dict[str, int] = {}
    open_: list[str] = []

    def visit(module: str) -> Iterator[frozenset[str]]:
        order[module] = low[module] = len(order)
        open_.append(module)
        for other in sorted(graph.get(module, ())):
            if other not in order:
                yield from visit(other)
            if other in open_:
                low[module] = min(low[module], low[other])
        if low[module] == order[module]:
            at = open_.index(module)
            circle, open_[at:] = frozenset(open_[at:]), []
            if len(circle) > 1:
                yield circle

    for module in sorted(graph):
        if module not in order:
            yield from visit(module)
