"""The rule engine. ADD A FUSION: subclass `Rule`, one rule a file; list it in a pipeline.

A rule reads as `pattern` (what it looks for), `check` (why a match may not be rewritten) and `rewrite`.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar, TypeVar, cast

import numpy as np

from ..compiler.errors import OptcError, UsageError
from ..compiler.ir import Attr, Graph, Node, Value
from ..compiler.types import Dim, DType, TensorType
from .base import PassContext, register_pass
from .facts import bind_symbols, symbol_binding
from .pattern import Captures, Op, Trace, matches, scalar_of


class Match:
    """A pattern found in a graph, and the builder a rewrite emits its nodes with (just before the root)."""

    def __init__(self, rule: str, root: Node, nodes: Sequence[Node], captures: Captures) -> None:
        self.root, self.nodes, self.captures = root, tuple(nodes), captures
        self._loc = root.loc.merged(*(n.loc for n in reversed(nodes) if n is not root), rule=rule)
        self.emitted: list[Node] = []

    def __getitem__(self, name: str) -> Value:
        """The value captured as `name`; raises KeyError if the pattern that matched has no such capture."""
        return cast(Value, self.captures[name])

    def __contains__(self, name: str) -> bool:
        return name in self.captures

    def node(self, name: str) -> Node:
        """The node captured as `name`."""
        return cast(Node, self.captures[name])

    def array(self, name: str) -> np.ndarray:
        """The data of the constant captured as `name`."""
        data = self[name].data
        if data is None:
            raise ValueError(f"{name} is no constant")
        return data

    def number(self, name: str) -> float:
        """The one element of the constant captured as `name`."""
        number = scalar_of(self[name])
        if number is None:
            raise ValueError(f"{name} is no constant of one element")
        return number

    @property
    def graph(self) -> Graph:
        if self.root.graph is None:
            raise ValueError(f"{self.root.name} is in no graph")
        return self.root.graph

    def emit(
        self,
        op: str,
        inputs: Sequence[Value | None],
        attrs: dict[str, Attr] | None = None,
        *,
        types: Sequence[TensorType] | None = None,
        num_outputs: int = 1,
    ) -> Value:
        """A new node's first output."""
        node = self.graph.emit(op, inputs, attrs, types=types, num_outputs=num_outputs, before=self.root, loc=self._loc)
        self.emitted.append(node)
        return node.outputs[0]

    def constant(self, data: np.ndarray | float | int, like: Value | None = None, dtype: DType | None = None) -> Value:
        """A new constant, cast to the dtype of `like` (or to `dtype`)."""
        dtype = like.type.dtype if like is not None else dtype
        hint = like.name if like is not None and like.is_constant else "const"
        return self.graph.constant(data, hint, dtype)


class Rule:
    """One rewrite. `patterns` (one or several alternatives) are rooted at the node whose outputs are replaced."""

    name: ClassVar[str]
    patterns: ClassVar[tuple[Op, ...]]

    def check(self, m: Match) -> str | None:
        """Why this match may not be rewritten; None if it may. Changes nothing."""
        return None

    def rewrite(self, m: Match) -> Sequence[Value] | Value:
        """What replaces the root's outputs; built with `m.emit`."""
        raise TypeError(f"rule {self.name} has no rewrite")


RULES: dict[str, Rule] = {}
_RuleClass = TypeVar("_RuleClass", bound=type[Rule])


def register_rule(cls: _RuleClass) -> _RuleClass:
    """Makes a rule known under its name."""
    RULES[cls.name] = cls()
    return cls


@register_pass
@dataclass(frozen=True)
class Rewrite:
    """Applies the rules named, together, until none matches."""

    name: ClassVar[str] = "rewrite"
    rules: tuple[str, ...] = ()

    def run(self, graph: Graph, ctx: PassContext) -> bool:
        unknown = [r for r in self.rules if r not in RULES]
        if unknown:
            raise UsageError(f"no such rule: {', '.join(unknown)}", hint=f"Known are {', '.join(sorted(RULES))}.")
        return apply_rules(graph, [RULES[r] for r in self.rules], ctx)


def find(rule: Rule, root: Node) -> Match | None:
    """The first match of the rule at this root that passes its check."""
    for pattern in rule.patterns:
        for state in matches(pattern, root):
            match = Match(rule.name, root, state.nodes, state.captures)
            if rule.check(match) is None:
                return match
    return None


def apply_rules(graph: Graph, rules: Sequence[Rule], ctx: PassContext | None = None) -> bool:
    """Applies rules, in this graph and its subgraphs, until none matches; earlier rules are tried first at a node.

    A worklist holds the nodes to look at: all of them in order, then those that a rewrite made or brought nearer.
    Raises OptcError if the rules go on without end.
    """
    by_op: dict[str, list[Rule]] = defaultdict(list)
    for rule in rules:
        for op in dict.fromkeys(op for pattern in rule.patterns for op in sorted(pattern.ops)):
            by_op[op].append(rule)
    work = _Worklist(graph.all_nodes())
    limit = 100 + 20 * len(work)
    done = 0
    binding: dict[object, Dim] = {}
    for node in work:
        for rule in by_op.get(node.op, ()):
            match = find(rule, node)
            if match is None:
                continue
            work.add(_apply(rule, match, binding))
            if ctx:
                ctx.count(rule.name)
            done += 1
            if done > limit:
                raise OptcError(f"rule {rule.name} goes on without end", node=node.name)
            break
    bind_symbols(graph, binding)
    return done > 0


class _Worklist:
    """Nodes to visit, each waiting once at a time."""

    def __init__(self, nodes: Iterable[Node]) -> None:
        self._queue: deque[Node] = deque()
        self._waiting: set[Node] = set()
        self.add(nodes)

    def add(self, nodes: Iterable[Node]) -> None:
        for node in nodes:
            if node not in self._waiting:
                self._waiting.add(node)
                self._queue.append(node)

    def __len__(self) -> int:
        return len(self._queue)

    def __iter__(self) -> Iterator[Node]:
        while self._queue:
            node = self._queue.popleft()
            self._waiting.discard(node)
            if node.graph is not None:
                yield node


def _apply(rule: Rule, match: Match, binding: dict[object, Dim]) -> list[Node]:
    """Rewrites a match; returns the nodes worth another look. Adds to `binding` symbols found to be equal."""
    root, graph = match.root, match.graph
    result = rule.rewrite(match)
    values = [result] if isinstance(result, Value) else list(result)
    near = {n for v in root.outputs for n in v.users}
    for old, new in zip(root.outputs, values, strict=True):
        adopt_type(old, new, match.emitted)
        binding.update(symbol_binding(old.type, new.type))
        if new.producer is root:
            raise OptcError(f"rule {rule.name} reads the node it replaces", node=root.name)
    near.update(n for v in root.inputs if v is not None and not v.is_constant for n in v.users)
    fed_by = [n for matched in match.nodes for v in matched.inputs if v is not None for n in _producer(v)]
    graph.replace(root, values)
    near.update(fed_by, erase_dead([*match.nodes, *fed_by]))
    near.update(match.emitted)
    for value in values:
        near.update(value.users)
    # One more step down: a pattern may be rooted two nodes below what changed.
    near.update(n for node in list(near) if node.graph for v in node.outputs for n in v.users)
    return [n for n in sorted(near, key=lambda n: n.outputs[0].name) if n.graph is not None]


def adopt_type(old: Value, new: Value, emitted: Iterable[Node]) -> None:
    """Gives a value just made the type known of the one it replaces: both are facts, but symbols in use must stay."""
    made = new.producer is not None and new.producer in emitted
    if made and new.type.dtype is old.type.dtype and old.type.shape is not None:
        new.type = old.type
        if old.content is not None:
            new.content = old.content


def _producer(value: Value) -> tuple[Node, ...]:
    return () if value.producer is None else (value.producer,)


def erase_dead(nodes: Iterable[Node]) -> set[Node]:
    """Erases those nodes, and recursively what fed them, whose outputs nobody reads; returns neighbours that live."""
    stack = list(nodes)
    neighbours: set[Node] = set()
    while stack:
        node = stack.pop()
        if node.graph is None or any(v.uses for v in node.outputs):
            continue
        inputs = [v for v in node.inputs if v is not None]
        for sub in node.subgraphs.values():
            inputs += [v for n in sub.all_nodes() for v in n.inputs if v is not None]
        node.graph.erase(node)
        for value in inputs:
            stack.extend(_producer(value))
            if value.is_constant:
                continue
            neighbours.update(value.users)
            neighbours.update(_producer(value))
    return {n for n in neighbours if n.graph is not None}


# --- why a rule did not apply ------------------------------------------------------------------------------------


_WHOLE = 1000  # a whole match that `check` refused is nearer than any part of one


@dataclass(frozen=True)
class Explanation:
    """How near a rule came in a graph. `node` is None where no node has the root's op."""

    rule: str
    applies: bool
    node: str | None
    matched: int
    reason: str

    def __str__(self) -> str:
        if self.applies:
            return f"{self.rule} applies at {self.node}"
        where = f" at {self.node} ({self.matched} nodes match)" if self.node else ""
        return f"{self.rule} does not apply{where}: {self.reason}"


def explain(rule: Rule, graph: Graph) -> Explanation:
    """Where the rule applies, or else its best near-miss: the match that failed in `check`, or went deepest."""
    roots = sorted({op for pattern in rule.patterns for op in pattern.ops})
    best = Explanation(rule.name, False, None, 0, f"the graph has no {' or '.join(roots)}")
    best_depth = (-1, 0)
    for node in graph.all_nodes():
        for pattern in rule.patterns:
            trace = Trace()
            if node.op not in pattern.ops:
                continue
            for state in matches(pattern, node, trace):
                match = Match(rule.name, node, state.nodes, state.captures)
                reason = rule.check(match)
                if reason is None:
                    return Explanation(rule.name, True, node.name, len(state.nodes), "")
                if best_depth < (_WHOLE + len(state.nodes), 0):
                    best_depth = (_WHOLE + len(state.nodes), 0)
                    best = Explanation(rule.name, False, node.name, len(state.nodes), reason)
            if trace.depth > best_depth:
                best_depth = trace.depth
                best = Explanation(rule.name, False, node.name, trace.depth[0], trace.reason)
    return best
