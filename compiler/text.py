"""The text form of graphs: print, parse, compare.

    graph main(%x: f32[N,3,224,224]) {              # inputs have types; names with odd characters are quoted: %"a b"
      %w: f32[64,3,7,7] = const random(1)           # a constant: see below
      %y: f32[N,64,112,112] = Conv(%x, %w) {pads=[3,3,3,3], strides=[2,2]}
      %z, %mask: bool[*] = Dropout(%y, _)           # result types left out are inferred; _ is an omitted input
      return %z as "out"                            # `as` where the output is called other than the value
    }

Constants: `[[1,2],[3,4]]` (dtype and shape taken from the result type, or i64/f32/bool and the nesting if there is
none), one scalar for all elements, `zeros`, `ones`, `iota`, `random(seed)`, `base64("...")`; printing writes a large
one as `<12 hex digits>` of its hash, which parses only if the array is given by `parse_graph(text, constants)`.

Attributes: `3`, `0.5`, `"text"`, `b"bytes"`, `[1,2]`, `f32` (an element type), `f32[2] [1.0,2.0]` (a tensor),
`graph body(...) {...}` (a subgraph, which may read the values above it). `#` starts a comment.
"""

from __future__ import annotations

from .equality import difference, equal, structural_hash
from .parsing import parse_graph, random_array
from .printing import print_graph, print_node

__all__ = ["difference", "equal", "parse_graph", "print_graph", "print_node", "random_array", "structural_hash"]
