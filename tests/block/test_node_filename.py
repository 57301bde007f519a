"""What a node is called: the name by which the same image could be opened."""

from __future__ import annotations

import json

from block_fakes import FilterDriver, FormatDriver, make_node

from blkxact.block.graph import Graph


def named(graph, name, kind=None, *, filename=None, header="", **how):
    node = make_node(graph, name, *([kind] if kind else []), **how)
    node.driver.filename = filename
    node.driver.backing_file = header
    return node


def options(node):
    assert node.filename.startswith("json:")
    return json.loads(node.filename[5:])


async def test_filename_of_a_format_is_its_files():
    graph = Graph()
    file = named(graph, "file", filename="a.img")
    assert named(graph, "top", FormatDriver, file=file).filename == "a.img"


async def test_filename_of_a_format_over_a_format_has_both():
    graph = Graph()
    inner = named(graph, "in", FormatDriver, file=named(graph, "file", filename="a.img"))
    assert options(named(graph, "top", FormatDriver, file=inner)) == {
        "driver": "format",
        "file": {"driver": "format", "file": {"driver": "memory"}},
    }


async def test_filename_tells_a_backing_file_that_the_header_does_not():
    graph = Graph()
    file = named(graph, "file", filename="d/a.img")
    base = named(graph, "base", filename="d/b.img")
    top = named(graph, "top", FormatDriver, file=file, backing=base, header="b.img")
    assert top.filename == "d/a.img"
    top.driver.backing_file = "c.img"
    assert options(top)["backing"] == {"driver": "memory"}
    top.driver.backing_file = ""
    assert options(top)["backing"] == {"driver": "memory"}
    graph.set_backing(top, None)
    assert top.filename == "d/a.img"
    top.driver.backing_file = "b.img"
    assert options(top)["backing"] is None


async def test_filename_tells_options_that_change_the_image():
    class Strong(FormatDriver):
        strong_options = frozenset({"offset"})

    graph = Graph()
    top = named(graph, "top", Strong, file=named(graph, "file", filename="a.img"))
    top.options = {"offset": None, "weak": 1}
    assert top.filename == "a.img"
    top.options = {"offset": 0, "weak": 1}
    assert options(top) == {"driver": "format", "offset": 0, "file": {"driver": "memory"}}


async def test_filename_of_a_filter_is_its_own_or_what_it_filters():
    graph = Graph()
    file = named(graph, "file", filename="a.img")
    above = named(graph, "filter", FilterDriver, file=file)
    assert above.filename == "a.img"
    above.driver.filename = "debug::a.img"
    assert above.filename == "debug::a.img"
    above.driver.filename = ""
    assert options(above) == {"driver": "filter", "file": {"driver": "memory"}}
    above.implicit = True
    assert above.filename == "a.img"
