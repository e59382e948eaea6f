"""What is written beside the axes of a chart."""

import pytest

from nas_cli.report.chart import Axis, Series, line_chart


@pytest.mark.parametrize(
    ("low", "high", "labels"),
    [
        (0.0, 1.0, ["0", "0.2", "0.4", "0.6", "0.8", "1.0"]),
        (0.99994, 1.00001, ["0.99994", "0.99996", "0.99998", "1.00000"]),
        (0.0, 50.0, ["0", "10", "20", "30", "40", "50"]),
        (0.0, 50_000.0, ["0", "10k", "20k", "30k", "40k", "50k"]),
        (2.95e6, 3.05e6, ["2.96M", "2.98M", "3.00M", "3.02M", "3.04M"]),
        (-1.0, 1.0, ["-1.0", "-0.5", "0", "0.5", "1.0"]),
    ],
)
def test_no_two_ticks_read_the_same(low: float, high: float, labels: list[str]) -> None:
    assert [label for _, label in Axis("x", low, high, 0.0, 100.0).ticks] == labels


def test_a_chart_of_one_value_has_ticks() -> None:
    assert ">1.00<" in line_chart("entropy", "epoch", "entropy", [Series("entropy", [(1.0, 1.0)])])
