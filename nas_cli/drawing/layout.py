"""Where the nodes, edges and labels of a cell stand, in inches; nothing here draws.

Nodes stand in layers by their depth. Between two layers every edge that passes has a slot of its own, and
its label stands in that slot just before the edge's target: so no two labels overlap and no edge runs
through a foreign label. (It is the layered drawing of Sugiyama, Tagawa and Toda, 1981, with slots.)
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

from nas_cli.space import CellGraph

LINE = 0.26  # the height of a label
CHARACTER = 0.078  # the mean width of a character of 9 points
ROOM = 0.42  # for the bend of an edge on either side of a label
LANE = 0.16  # the thickness of a slot without a label
GROUP = 0.2  # more distance between the slots of two targets
MOST_COLUMNS = 9  # a deeper cell runs from top to bottom

Point = tuple[float, float]
Edge = tuple[str, str, str]
Waypoint = str | tuple[int, int]  # a node, or where edge k crosses a layer


@dataclass(frozen=True, slots=True)
class Route:
    """An edge: from its source to its target, `points` end a bend and a straight part in turn."""

    points: tuple[Point, ...]
    label: str
    label_at: Point


@dataclass(frozen=True, slots=True)
class Layout:
    """Points are (along, across): along leads from the inputs to the output, across starts at 0 too."""

    downwards: bool
    nodes: dict[str, Point]
    routes: tuple[Route, ...]
    inputs: tuple[str, ...]
    output: str
    node_size: Point
    size: Point


def text_width(text: str) -> float:
    return CHARACTER * len(text) + 0.16


def lay_out(cell: CellGraph) -> Layout:
    return _Placement(cell).layout()


def _output_of(cell: CellGraph) -> str:
    """The node that the picture ends in: the only output, or one that joins them, named as papers do."""
    if len(cell.outputs) == 1:
        return cell.outputs[0]
    return "c_{k}" if any(name.startswith("c_{k") for name in cell.inputs) else "output"


def _depths(inputs: Sequence[str], edges: Sequence[Edge]) -> dict[str, int]:
    """The longest way to each node. As many rounds as there are nodes are enough without a cycle."""
    depths = dict.fromkeys(inputs, 0)
    for source, target, _ in edges:
        depths.setdefault(source, 0)
        depths.setdefault(target, 0)
    for _ in range(len(depths)):
        for source, target, _ in edges:
            depths[target] = max(depths[target], depths[source] + 1)
    return depths


class _Placement:
    """Goes from layer to layer: each one is ordered and placed by the one before it."""

    def __init__(self, cell: CellGraph) -> None:
        self.inputs = cell.inputs
        self.output = _output_of(cell)
        joined = cell.outputs if len(cell.outputs) > 1 else ()
        self.edges: list[Edge] = [*cell.edges, *((name, self.output, "") for name in joined)]
        self.depth = _depths(cell.inputs, self.edges)
        self.num_layers = max(self.depth.values()) + 1
        self.downwards = self.num_layers > MOST_COLUMNS
        self.node_size = (max(map(text_width, self.depth)), LINE * 1.25)
        self.node_along, self.node_across = self.node_size[:: -1 if self.downwards else 1]
        self.across: dict[Waypoint, float] = {}
        self.slots: dict[tuple[int, int], float] = {}  # of edge k on its way to a layer
        self.low = self.high = 0.0

    def layout(self) -> Layout:
        self._place_inputs()
        for layer in range(1, self.num_layers):
            self._place_layer(layer)
        along = list(accumulate(map(self._gap, range(1, self.num_layers)), initial=self.node_along / 2))
        return Layout(
            downwards=self.downwards,
            nodes={name: (along[self.depth[name]], self.across[name] - self.low) for name in self.depth},
            routes=tuple(self._route(edge, along) for edge in range(len(self.edges))),
            inputs=self.inputs,
            output=self.output,
            node_size=self.node_size,
            size=(along[-1] + self.node_along / 2, self.high - self.low),
        )

    def _gap(self, layer: int) -> float:
        """The distance of a layer from the one before it."""
        return self.node_along + self._label_along(layer) + (ROOM if self.downwards else 2 * ROOM)

    def _label_along(self, layer: int) -> float:
        labels = [label for _, target, label in self.edges if self.depth[target] == layer and label]
        return LINE if self.downwards else max(map(text_width, labels), default=0.0)

    def _place_inputs(self) -> None:
        """Spread over most of the slots that follow."""
        names = [name for name, depth in self.depth.items() if depth == 0]
        thickness = sum(self._thickness(edge, 1) for edge, _, _ in self._segments(1))
        step = max(self.node_across + GROUP, 0.6 * thickness / len(names))
        for index, name in enumerate(names):
            self._put(name, (index - (len(names) - 1) / 2) * step)

    def _segments(self, layer: int) -> list[tuple[int, Waypoint, Waypoint]]:
        """The parts of edges that lead from the layer before to this one: (edge, start, end)."""
        segments: list[tuple[int, Waypoint, Waypoint]] = []
        for edge, (source, target, _) in enumerate(self.edges):
            if self.depth[source] < layer <= self.depth[target]:
                start = source if self.depth[source] == layer - 1 else (edge, layer - 1)
                end = target if self.depth[target] == layer else (edge, layer)
                segments.append((edge, start, end))
        return segments

    def _place_layer(self, layer: int) -> None:
        """The slots of one target are neighbours; targets stand in the order of where their edges start."""
        groups: dict[Waypoint, list[tuple[float, int]]] = {}
        for edge, start, end in self._segments(layer):
            groups.setdefault(end, []).append((self.across[start], edge))
        ends = sorted(groups, key=lambda end: sum(start for start, _ in groups[end]) / len(groups[end]))
        total = sum(self._thickness(edge, layer) for group in groups.values() for _, edge in group)
        position = -(total + GROUP * (len(ends) - 1)) / 2
        for end in ends:
            position = self._place_group(end, [edge for _, edge in sorted(groups[end])], layer, position)

    def _place_group(self, end: Waypoint, edges: Sequence[int], layer: int, position: float) -> float:
        first = position
        for edge in edges:
            thickness = self._thickness(edge, layer)
            self.slots[edge, layer] = position + thickness / 2
            position += thickness
        self._put(end, (first + position) / 2)
        self.low, self.high = min(self.low, first), max(self.high, position)
        return position + GROUP

    def _put(self, waypoint: Waypoint, across: float) -> None:
        self.across[waypoint] = across
        half = self.node_across / 2 if isinstance(waypoint, str) else 0.0
        self.low, self.high = min(self.low, across - half), max(self.high, across + half)

    def _thickness(self, edge: int, layer: int) -> float:
        _, target, label = self.edges[edge]
        if not label or self.depth[target] != layer:
            return LANE
        return text_width(label) + 0.1 if self.downwards else LINE + 0.08

    def _route(self, edge: int, along: Sequence[float]) -> Route:
        source, target, label = self.edges[edge]
        first, last = self.depth[source], self.depth[target]
        points = [(along[first] + self.node_along / 2, self.across[source])]
        for layer in range(first + 1, last + 1):
            middle = (along[layer - 1] + along[layer]) / 2
            half = self._label_along(layer) / 2
            slot = self.slots[edge, layer]
            points += [(middle - half, slot), (middle + half, slot)]
            if layer < last:
                crossing = self.across[edge, layer]
                points += [
                    (along[layer] - self.node_along / 2, crossing),
                    (along[layer] + self.node_along / 2, crossing),
                ]
        points.append((along[last] - self.node_along / 2, self.across[target] + self._entry(edge)))
        shifted = tuple((a, across - self.low) for a, across in points)
        return Route(shifted, label, (middle, slot - self.low))

    def _entry(self, edge: int) -> float:
        """Edges that end in one node arrive side by side, in the order of their slots."""
        target = self.edges[edge][1]
        layer = self.depth[target]
        others = [k for k, (_, end, _) in enumerate(self.edges) if end == target]
        others.sort(key=lambda k: self.slots[k, layer])
        step = min(0.09, 0.7 * self.node_across / len(others))
        return (others.index(edge) - (len(others) - 1) / 2) * step
