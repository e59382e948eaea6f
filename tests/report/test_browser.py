"""The pages in a real browser: headless Chromium, without network, on a desk and on a phone."""

import html
import json
import re
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import cast

import pytest

from nas_cli.cli import main
from nas_cli.report import write_report
from tests.report.runs import make_gradient_search, make_search

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="no Chromium here (Debian: apt-get install chromium)"
)
PHONE, DESK = 390, 1100

# The page stands in a frame as wide as the screen, so that its own rules of what it may load hold.
OUTSIDE = """<!doctype html><body>
<iframe id="frame" style="width:{width}px;height:900px;border:0" src="{name}"></iframe><script>
const frame = document.getElementById("frame");
frame.onload = () => {{
  const page = frame.contentDocument, root = page.documentElement, view = frame.contentWindow;
  page.querySelectorAll("details").forEach(one => one.open = true);
  const charts = [...page.querySelectorAll("svg.chart")].map(chart => {{
    const box = chart.getBBox(), rectangle = chart.getBoundingClientRect();
    const scale = rectangle.width / chart.viewBox.baseVal.width;
    const letters = [...chart.querySelectorAll("text")].map(text =>
      parseFloat(view.getComputedStyle(text).fontSize) * scale);
    const overlap = (one, other) => one.left < other.right && other.left < one.right
      && one.top < other.bottom && other.top < one.bottom;
    const boxes = [...chart.querySelectorAll("text")].map(text => text.getBoundingClientRect());
    const pairs = boxes.flatMap((one, k) => boxes.slice(k + 1).map(other => [one, other]));
    const overlaps = pairs.filter(pair => overlap(...pair)).length;
    return {{name: chart.getAttribute("aria-label"), box: [box.width, box.height], overlaps,
            size: [rectangle.width, rectangle.height], letters: Math.min(99, ...letters)}};
  }});
  const images = [...page.images].map(image => [image.naturalWidth, image.getBoundingClientRect().width]);
  const colours = [view.getComputedStyle(page.body).color, view.getComputedStyle(page.body).backgroundColor];
  const seen = {{charts, images, colours, wide: root.scrollWidth, screen: root.clientWidth}};
  const answer = document.createElement("pre");
  answer.id = "seen";
  answer.textContent = JSON.stringify(seen);
  document.body.append(answer);
}};
</script></body>"""


def look_at(file: Path, width: int = DESK, *flags: str) -> Mapping[str, object]:
    """What the browser made of the page; fails on any line of its console."""
    outside = file.with_name("outside.html")
    outside.write_text(OUTSIDE.format(width=width, name=file.name))
    command = [str(CHROMIUM), "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
    command += ["--allow-file-access-from-files", "--enable-logging=stderr", "--virtual-time-budget=5000"]
    command += [f"--user-data-dir={file.parent / 'browser'}", *flags, "--dump-dom", outside.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert [line for line in done.stderr.splitlines() if "CONSOLE" in line] == []
    seen = re.search('<pre id="seen">(.*?)</pre>', done.stdout, re.DOTALL)
    assert seen is not None
    return cast(Mapping[str, object], json.loads(html.unescape(seen[1])))


def brightness(colour: str) -> float:
    return sum(map(int, re.findall(r"\d+", colour)[:3])) / (3 * 255)


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = make_gradient_search(tmp_path_factory.mktemp("report") / "run")
    with (folder / "history.jsonl").open("w") as file:
        for k in range(30):
            line = {
                "picks": [0] * 6,
                "fidelity": None,
                "score": 50.0 + k,
                "seconds": 0,
                "metrics": {"ms": k % 7},
            }
            file.write(json.dumps(line) + "\n")
    (page,) = write_report(folder)
    return page


@pytest.mark.parametrize("width", [PHONE, DESK])
def test_every_chart_and_picture_is_drawn(report: Path, width: int) -> None:
    seen = look_at(report, width)
    charts = cast(list[dict[str, object]], seen["charts"])
    assert len(charts) == 11
    for chart in charts:
        assert min(cast(list[float], chart["box"]) + cast(list[float], chart["size"])) > 0, chart["name"]
    assert [min(cast(list[float], image)) > 0 for image in cast(list[object], seen["images"])] == [True]


def test_a_phone_need_not_scroll_sideways_or_read_tiny_letters(report: Path) -> None:
    seen = look_at(report, PHONE)
    assert cast(int, seen["wide"]) <= cast(int, seen["screen"])
    assert min(cast(float, chart["letters"]) for chart in cast(list[dict[str, object]], seen["charts"])) > 9


@pytest.mark.parametrize("width", [PHONE, DESK])
def test_no_label_lies_over_another(tmp_path: Path, width: int) -> None:
    (page,) = write_report(make_gradient_search(tmp_path / "run", fall_of_entropy=1e-5))
    charts = cast(list[dict[str, object]], look_at(page, width)["charts"])
    assert {chart["name"]: chart["overlaps"] for chart in charts if chart["overlaps"]} == {}


def test_a_comparison_fits_a_phone_too(tmp_path: Path) -> None:
    for k, seed in enumerate((0, 1, 2, 0, 1, 2)):
        make_search(tmp_path / str(k), settings={"order": 1 + k // 3}, seed=seed, score=90.0 + k)
    assert main(["report", str(tmp_path)]) == 0
    seen = look_at(tmp_path / "report.html", PHONE)
    assert cast(int, seen["wide"]) <= cast(int, seen["screen"])
    assert len(cast(list[object], seen["charts"])) == 1


def test_dark_mode_is_bright_on_dark(report: Path) -> None:
    ink, paper = map(brightness, cast(list[str], look_at(report)["colours"]))
    assert paper - ink > 0.7
    dark = look_at(report, DESK, "--blink-settings=preferredColorScheme=0")
    ink, paper = map(brightness, cast(list[str], dark["colours"]))
    assert ink - paper > 0.7
