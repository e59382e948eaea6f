import math
from itertools import combinations
from xml.etree import ElementTree

import pytest

from nas_cli.architecture import Json
from nas_cli.drawing import curves_svg, draw_cells, png_of, svg_of
from nas_cli.drawing.layout import LINE, Layout, lay_out, text_width
from nas_cli.space import CellGraph

INPUTS = ("c_{k-2}", "c_{k-1}")
DARTS_V2 = CellGraph(
    INPUTS,
    (
        (INPUTS[0], "0", "sep_conv_3x3"),
        (INPUTS[1], "0", "sep_conv_3x3"),
        (INPUTS[0], "1", "sep_conv_3x3"),
        (INPUTS[1], "1", "sep_conv_3x3"),
        (INPUTS[1], "2", "sep_conv_3x3"),
        (INPUTS[0], "2", "skip_connect"),
        (INPUTS[0], "3", "skip_connect"),
        ("0", "3", "dil_conv_3x3"),
    ),
    ("0", "1", "2", "3"),
)
NASBENCH = CellGraph(
    ("0",),
    (
        ("0", "1", "nor_conv_3x3"),
        ("0", "2", "none"),
        ("1", "2", "avg_pool_3x3"),
        ("0", "3", "skip_connect"),
        ("1", "3", "none"),
        ("2", "3", "nor_conv_1x1"),
    ),
    ("3",),
)
TWICE = CellGraph(("in",), (("in", "out", "conv"), ("in", "out", "pool")), ("out",))
CHAIN = CellGraph(
    ("image",), tuple((f"{k}" if k else "image", f"{k + 1}", f"block_{k}") for k in range(21)), ("21",)
)
CELLS = {"darts": DARTS_V2, "nasbench": NASBENCH, "twice": TWICE, "chain": CHAIN}


def boxes(layout: Layout) -> list[tuple[float, float, float, float]]:
    """(left, top, width, height) of every node and label."""
    labels = [(route.label_at, (text_width(route.label), LINE)) for route in layout.routes if route.label]
    found = []
    for (along, across), (width, height) in [
        *labels,
        *((at, layout.node_size) for at in layout.nodes.values()),
    ]:
        x, y = (across, along) if layout.downwards else (along, across)
        found.append((x - width / 2, y - height / 2, width, height))
    return found


@pytest.mark.parametrize("name", CELLS)
def test_no_label_overlaps_another_or_a_node_or_leaves_the_picture(name: str) -> None:
    layout = lay_out(CELLS[name])
    width, height = layout.size[::-1] if layout.downwards else layout.size
    for x, y, w, h in boxes(layout):
        assert x >= -1e-9
        assert y >= -1e-9
        assert x + w <= width + 1e-9
        assert y + h <= height + 1e-9
    for (x, y, w, h), (u, v, p, q) in combinations(boxes(layout), 2):
        assert x + w <= u or u + p <= x or y + h <= v or v + q <= y


@pytest.mark.parametrize("name", CELLS)
def test_every_edge_leads_forwards(name: str) -> None:
    for route in lay_out(CELLS[name]).routes:
        along = [point[0] for point in route.points]
        assert along == sorted(along)


def test_several_outputs_are_joined_in_a_node_named_as_in_the_paper() -> None:
    layout = lay_out(DARTS_V2)
    assert layout.output == "c_{k}"
    assert len(layout.routes) == 8 + 4


def test_a_single_output_is_the_last_node() -> None:
    assert lay_out(NASBENCH).output == "3"
    assert len(lay_out(NASBENCH).routes) == 6


def test_a_deep_network_runs_downwards() -> None:
    width, height = draw_cells({"network": CHAIN}).get_size_inches()
    assert height > 5 * width


def test_a_svg_holds_every_name_and_label_as_text() -> None:
    root = ElementTree.fromstring(svg_of({"normal": DARTS_V2}))
    texts = [element.text for element in root.iter("{http://www.w3.org/2000/svg}text")]
    assert texts.count("sep_conv_3x3") == 5
    assert {"normal", "c_{k-2}", "c_{k-1}", "0", "1", "2", "3", "c_{k}", "dil_conv_3x3"} <= set(texts)


def test_the_same_cells_give_the_same_bytes() -> None:
    cells = {"normal": DARTS_V2, "reduce": NASBENCH}
    assert svg_of(cells) == svg_of(cells)
    assert png_of(cells) == png_of(cells)
    assert "<dc:date>" not in svg_of(cells)


def test_a_png_of_darts_is_about_1200_pixels_wide() -> None:
    data = png_of({"normal": DARTS_V2})
    assert data.startswith(b"\x89PNG")
    assert 1000 < int.from_bytes(data[16:20], "big") < 1400


def test_a_none_edge_is_dashed() -> None:
    assert "stroke-dasharray" in svg_of({"cell": NASBENCH})
    assert "stroke-dasharray" not in svg_of({"cell": DARTS_V2})


def test_curves_show_losses_and_accuracies_with_gaps() -> None:
    metrics: list[dict[str, Json]] = [
        {"epoch": 0, "train_loss": 2.3, "valid_accuracy": 0.1, "seconds": 3.0},
        {"epoch": 1, "train_loss": None, "valid_accuracy": math.inf},
        {"epoch": 2, "train_loss": 1.9},
    ]
    svg = curves_svg(metrics)
    for text in (">loss<", ">accuracy<", ">train loss<", ">valid accuracy<", ">epoch<"):
        assert text in svg
    assert "seconds" not in svg
    assert svg == curves_svg(metrics)


def test_curves_of_no_epoch_are_an_empty_picture() -> None:
    assert ">loss<" in curves_svg([])
