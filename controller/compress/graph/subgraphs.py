"""Subgraphs (the branches of ``If``, bodies of ``Loop`` and ``Scan``): what they read from outside.

A subgraph reads outer tensors by name, without being listed as their reader. Whoever renames or
drops a tensor has to ask here first.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import onnx


def subgraphs(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    """The graphs in a node's attributes."""
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


def outer_reads(node: onnx.NodeProto) -> frozenset[str]:
    """Tensors of the surrounding graph that a node's subgraphs read, however deep."""
    found: set[str] = set()
    for graph in subgraphs(node):
        own = {str(item.name) for item in graph.input} | {i.name for i in graph.initializer}
        own |= {name for inner in graph.node for name in inner.output}
        read = {name for inner in graph.node for name in inner.input if name}
        read |= {str(item.name) for item in graph.output}
        for inner in graph.node:
            read |= outer_reads(inner)
        found |= read - own
    return frozenset(found)


def rename_reads(node: onnx.NodeProto, names: Mapping[str, str]) -> None:
    """Let a node's subgraphs read outer tensors under other names, in place."""
    for graph in subgraphs(node):
        for inner in graph.node:
            for index, name in enumerate(inner.input):
                inner.input[index] = names.get(name, name)
            rename_reads(inner, names)


def every_node(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    """All nodes of a graph and of the graphs inside it."""
    for node in graph.node:
        yield node
        for inner in subgraphs(node):
            yield from every_node(inner)


def listed(nodes: Iterable[onnx.NodeProto]) -> tuple[str, ...]:
    """Nodes for people, a line each operator: ``Conv 'stem'``, ``Slice 'cut' and 5 more``."""
    named: dict[str, list[str]] = {}
    for node in nodes:
        named.setdefault(node.op_type, []).append(node.name)
    return tuple(
        f"{op} '{found[0]}'" + (f" and {len(found) - 1} more" if len(found) > 1 else "")
        for op, found in named.items()
    )


def used_names(graph: onnx.GraphProto) -> set[str]:
    """Every tensor that a node, a subgraph or an output of the graph reads."""
    used = {name for node in graph.node for name in (*node.input, *outer_reads(node))}
    return used | {item.name for item in graph.output}


def drop_unread(graph: onnx.GraphProto) -> None:
    """Take away the initializers that nothing reads, subgraphs included."""
    used = used_names(graph)
    kept = [item for item in graph.initializer if item.name in used]
    del graph.initializer[:]
    graph.initializer.extend(kept)
