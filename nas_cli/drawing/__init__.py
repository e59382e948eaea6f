"""Pictures of what was found: cells as graphs, and curves over the epochs.

layout.py   where the nodes, edges and labels of a cell stand; pure geometry
cells.py    draws that
curves.py   draws the metrics of a run
fronts.py   draws scores over costs
"""

from nas_cli.drawing.cells import draw_cells, png_of, svg_of
from nas_cli.drawing.curves import curves_svg
from nas_cli.drawing.fronts import front_svg

__all__ = ["curves_svg", "draw_cells", "front_svg", "png_of", "svg_of"]
