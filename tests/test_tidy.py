"""The repository keeps its own rules: sizes, names that exist, no unused code, asserting tests.

Each rule has a table of exceptions. A table must be exact: an entry that is no longer needed fails
the test too, so the tables only shrink. The lines of a function do not include its docstring; the
lines of a file are all its lines.
"""

from __future__ import annotations

import ast
import builtins
import functools
import gc
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
MAX_FILE_LINES = 399
MAX_FUNCTION_LINES = 39

# Exceptions. 2026-11-27: these wait for changes of the second edition.
LONG_FILES: set[str] = set()
LONG_FUNCTIONS: set[str] = set()
UNUSED_NAMES = {
    # Called by Python, before an import.
    "find_spec",
    # Called by pytest, by name.
    "pytest_addoption",
    "pytest_configure",
    "pytest_runtest_setup",
    "pytest_plugins",
    "pytest_runtest_makereport",
    "pytest_runtest_protocol",
    # Its result is compared with the page in docs/.
    "as_markdown",
    # Says to a test what of QEMU's schema is left out.
    "matches",
    # Moves a stepped clock by hand.
    "next_timer_s",
}
FOR_OTHERS = ("src/blkxact/testing/", "src/blkxact/kit/")
FIXTURES = {"sim_seed", "blkxact"}
OTHER_PROGRAMS_FILES = {
    "doc/proto.md",
    "bitmap_data.py",
}
"""Files of QEMU and of the NBD project, and one in the history of a decision."""
OTHER_PROGRAMS_NAMES = {
    "NBD_",
    "fsx_extsize",
    "fsx_xflags",
    "ps",
    "sendfile",
    "strtoll",
    "strtoull",
}
"""Names that are neither ours nor QEMU's."""
PRIVATE_USES = {
    # asyncio's: a connection that breaks at a certain moment.
    "tests/nbd/test_nbd_server.py _sock",
    # Functions that are counted or replaced, to see how often or that they are not called.
    "tests/qcow2/test_compressed.py _zstd",
    "tests/system/test_query_cost.py _find_name",
    "tests/system/test_query_cost.py _own_info",
    # A listener that fails as the system's does.
    "tests/storage/test_acceptor.py _listener",
    # Requests, pieces and buffers inside one class (2026-11-27).
    "tests/cli/test_cli_job_board.py _jobs",
    "tests/copy/test_block_copy.py _pieces",
    "tests/drivers/test_copy_before_write.py _pieces",
    "tests/nbd/test_handshake.py _input",
    "tests/nbd/test_nbd_client.py _channel",
    "tests/nbd/test_nbd_client.py _client",
    "tests/nbd/test_nbd_client.py _waiting",
    "tests/storage/test_copy_process.py _process",
    "tests/storage/test_copy_process.py _socket",
}

Function = ast.FunctionDef | ast.AsyncFunctionDef
FILE_NAME = re.compile(r"[\w./-]*\w\.(?:py|md|toml|sh)\b")
CITED_NAME = re.compile(r"``([A-Za-z_][\w.]*)(?:\(\))?``")
ALONE = re.compile(r"\(``[^`]+``(?:, ``[^`]+``)*\)")
"""QEMU's name of what a docstring describes."""
WORD = re.compile(r"[\w-]+")
PROSE = re.compile(r'""".*?"""|#[^\n]*', re.DOTALL)
DIFF_HEADER = re.compile(r"^(?:diff|---|\+\+\+) .*$", re.MULTILINE)
LINK = re.compile(r"\]\(([^)#:]+)(?:#[^)]*)?\)")
CHECKS = re.compile(
    "assert|check|expect|verify|AssertionError|(?:raises|warns|fail|run_state_machine_as_test)$"
)
"""How the name of a function begins that raises when something is not as it must be."""


@pytest.fixture(scope="module", autouse=True)
def without_collection() -> Iterator[None]:
    """Syntax trees are many objects, none of which is garbage before the end: twice as fast."""
    gc.disable()
    yield
    gc.enable()
    for cached in (parsed, nodes, trees):
        cached.cache_clear()


@functools.cache
def trees(*folders: str) -> dict[str, ast.Module]:
    """Return the syntax trees of all files of these folders, by path."""
    return {
        str(path.relative_to(ROOT)): parsed(path)
        for folder in folders
        for path in sorted((ROOT / folder).rglob("*.py"))
    }


@functools.cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


@functools.cache
def nodes(path: str) -> list[ast.AST]:
    """Return all nodes of a file's tree, each after its parent."""
    found: list[ast.AST] = [parsed(ROOT / path)]
    for node in found:  # it grows meanwhile
        for value in node.__dict__.values():
            if isinstance(value, list):
                found += [one for one in value if isinstance(one, ast.AST)]
            elif isinstance(value, ast.AST) and not isinstance(value, ast.expr_context):
                found.append(value)
    return found


def of_source() -> Iterator[tuple[str, ast.AST]]:
    return ((path, node) for path in trees("src") for node in nodes(path))


def check(found: set[str], exceptions: set[str]) -> None:
    """Fail for what is found and no exception, and for exceptions that are not found."""
    assert sorted(found - exceptions) == []
    assert sorted(exceptions - found) == [], "these exceptions are no longer needed"


def test_files_of_the_source_are_under_400_lines():
    lines = {path: len((ROOT / path).read_text().splitlines()) for path in trees("src")}
    check({path for path, count in lines.items() if count > MAX_FILE_LINES}, LONG_FILES)


def test_functions_of_the_source_are_under_40_lines():
    long = {
        f"{path} {name}"
        for path, tree in trees("src").items()
        for name, function in functions_of(tree)
        if lines_of(function) > MAX_FUNCTION_LINES
    }
    check(long, LONG_FUNCTIONS)


def functions_of(tree: ast.AST, prefix: str = "") -> Iterator[tuple[str, Function]]:
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, Function):
            yield prefix + node.name, node
        if isinstance(node, Function | ast.ClassDef):
            yield from functions_of(node, f"{prefix}{node.name}.")
        else:
            yield from functions_of(node, prefix)


def lines_of(function: Function) -> int:
    """Return how many lines a function has without its docstring."""
    first = function.body[0]
    docstring = 0 if ast.get_docstring(function) is None else lines_from_to(first)
    return lines_from_to(function) - docstring


def lines_from_to(node: Any) -> int:
    return node.end_lineno - node.lineno + 1


# Names without a use


def test_public_names_of_the_source_are_used_in_it():
    """A name counts as used wherever in the source a variable or attribute is called so.

    ``blkxact.testing`` and ``blkxact.kit`` are for others. What a class of another package calls is
    not looked at, and neither is what a decorator with arguments enters into a table.
    """
    used = {name for _, node in of_source() for name in names_used(node)}
    own_classes = {node.name for _, node in of_source() if isinstance(node, ast.ClassDef)}
    defined = {
        name
        for path, tree in trees("src").items()
        if not path.startswith(FOR_OTHERS) or path.endswith("pytest_plugin.py")
        for name in names_defined(tree, own_classes)
        if not name.startswith("_") and name not in FIXTURES
    }
    check(defined - used, UNUSED_NAMES)


def names_used(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Store):
        return [node.id]
    if isinstance(node, ast.Attribute):
        return [node.attr]
    if isinstance(node, ast.Constant) and isinstance(node.value, str):  # of ``getattr`` or a table
        return [node.value.rpartition(".")[2].rpartition(":")[2]] if node.value.isascii() else []
    return []


def names_defined(tree: ast.Module, own_classes: set[str]) -> Iterator[str]:
    for node in tree.body:
        if isinstance(node, Function | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.Assign):
            yield from (target.id for target in node.targets if isinstance(target, ast.Name))
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            yield node.target.id
        if isinstance(node, ast.ClassDef) and not has_foreign_base(node, own_classes):
            for member in node.body:
                if isinstance(member, Function) and not is_entered_by_decorator(member):
                    yield member.name


def has_foreign_base(node: ast.ClassDef, own_classes: set[str]) -> bool:
    plain = {*own_classes, "Protocol", "Generic", "Enum", "StrEnum", "IntEnum", "IntFlag"}
    bases = [base.value if isinstance(base, ast.Subscript) else base for base in node.bases]
    return not all(isinstance(base, ast.Name) and base.id in plain for base in bases)


def is_entered_by_decorator(function: Function) -> bool:
    return any(isinstance(decorator, ast.Call) for decorator in function.decorator_list)


# Names and files that are cited


def test_files_that_documents_and_docstrings_cite_exist():
    missing = {
        name
        for text in [*documents().values(), *(text for _, text in prose())]
        for paragraph in DIFF_HEADER.sub("", text).split("\n\n")
        if "QEMU's counterpart" not in paragraph
        for name in FILE_NAME.findall(paragraph)
        if not is_file(name)
    }
    check(missing, OTHER_PROGRAMS_FILES)


def test_links_of_documents_lead_somewhere():
    missing = {
        f"{path}: {target}"
        for path, text in documents().items()
        for target in LINK.findall(text)
        if not (path.parent / target).exists()
    }
    assert missing == set()


def test_names_that_docstrings_and_comments_cite_exist():
    """QEMU's names stand alone in parentheses, or in a sentence that names QEMU."""
    cited = {
        name
        for _, text in prose()
        for paragraph in text.split("\n\n")
        if "QEMU's counterpart" not in paragraph
        for sentence in re.split(r"(?<=[.;])\s", ALONE.sub("", paragraph))
        if "QEMU" not in sentence
        for name in CITED_NAME.findall(sentence)
        if not is_file(name)
    }
    known = known_words()
    missing = {name for name in cited if name.rpartition(".")[2] not in known}
    check(missing, OTHER_PROGRAMS_NAMES)


def documents() -> dict[Path, str]:
    """Return the text of the documents, but the history of the changes."""
    paths = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]
    return {path: path.read_text() for path in paths if path.name != "CHANGELOG.md"}


def prose() -> Iterator[tuple[str, str]]:
    """Yield the docstrings and comments of the source."""
    for path, node in of_source():
        for statement in docstrings(node):
            yield path, statement.value.value
    for path in trees("src"):
        text = (ROOT / path).read_text()
        if re.search(r"#.*(?:``|\w\.\w)", text):
            for token in tokenize.generate_tokens(io.StringIO(text).readline):
                if token.type == tokenize.COMMENT:
                    yield path, token.string


def docstrings(node: ast.AST) -> Iterator[Any]:
    """Yield the strings that stand alone among the statements of a node."""
    body = getattr(node, "body", None)
    for statement in body if isinstance(body, list) else []:
        value = statement.value if isinstance(statement, ast.Expr) else None
        if isinstance(value, ast.Constant) and isinstance(value.value, str):
            yield statement


@functools.cache
def file_names() -> list[str]:
    folders = ("src", "tests", "iotests", "fuzz", "bench", "docs", "examples", ".ci")
    paths = [*ROOT.glob("*"), *(path for folder in folders for path in (ROOT / folder).rglob("*"))]
    return ["/" + str(path.relative_to(ROOT)) for path in paths]


def is_file(name: str) -> bool:
    return any(path.endswith("/" + name.removeprefix("./")) for path in file_names())


def known_words() -> set[str]:
    """Return the words of the code, without those of docstrings and comments."""
    words = {*dir(builtins), "None", "True", "False"}
    for folder in ("src", "tests", "iotests", "fuzz", "bench"):
        for path in (ROOT / folder).rglob("*.py"):
            if path != Path(__file__):
                words.update(WORD.findall(PROSE.sub("", path.read_text())), path.parts)
    return words


# Tests


def test_every_test_asserts_something():
    """By itself, by a function that does, or by one whose name says so (``CHECKS``)."""
    functions = {
        (path, node.name): names_in(node)
        for path in trees("tests", "iotests", "fuzz")
        for node in parsed(ROOT / path).body
        if isinstance(node, Function)
    }
    left = {key: names for key, names in functions.items() if "assert" not in names}
    while True:
        # An imported function is known by its name: all of that name have to assert.
        names_left = {name for _, name in left}
        known = {name for _, name in functions} - names_left
        more = {
            (path, name)
            for path, name in left
            for used in left[path, name]
            if (used in known if (path, used) not in functions else (path, used) not in left)
        }
        if not more:
            break
        left = {key: names for key, names in left.items() if key not in more}
    assert sorted(name for _, name in left if name.startswith("test_")) == []


def names_in(function: Function) -> set[str]:
    """Return the names that a function uses, and "assert" if it asserts."""
    names: set[str] = set()
    for node in ast.walk(function):
        if isinstance(node, ast.Assert):
            names.add("assert")
        elif isinstance(node, ast.Name):
            names.add("assert" if CHECKS.match(node.id) else node.id)
        elif isinstance(node, ast.Attribute) and CHECKS.match(node.attr):
            names.add("assert")
    return names


def test_tests_use_public_names_only():
    """``self._x`` is a test's own, as is what its file defines."""
    uses = set()
    for path in trees("tests", "iotests"):
        own = {
            name
            for node in nodes(path)
            for name in ([node.name] if isinstance(node, Function) else [own_attribute(node)])
        }
        uses |= {
            f"{path} {node.attr}"
            for node in nodes(path)
            if isinstance(node, ast.Attribute)
            and re.match("_[^_]", node.attr)
            and node.attr != "_replace"  # of a named tuple
            and node.attr not in own
        }
    check(uses, PRIVATE_USES)


def own_attribute(node: ast.AST) -> str | None:
    if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
        return node.attr if node.value.id in {"self", "cls"} else None
    return None


def test_tests_wait_for_conditions_and_count_no_turns():
    """``blkxact.testing.waiting`` has ``until`` and ``until_idle`` instead."""
    waits = {
        f"{path}:{node.lineno}"
        for path in trees("tests", "iotests")
        for node in nodes(path)
        if isinstance(node, ast.For | ast.While)
        and all(ast.unparse(one) == "await asyncio.sleep(0)" for one in node.body)
    }
    assert waits == set()
