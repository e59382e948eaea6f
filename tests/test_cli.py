"""The command line, from words to exit codes and files. A user's folder gives strategies that end at once."""

import json
import os
import re
import signal
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from nas_cli import __version__
from nas_cli.catalogue import conf_dir
from nas_cli.cli import main

MINE = """
import os, signal
from pathlib import Path
from typing import Annotated, Literal
from pydantic import Field
from nas_cli.architecture import Architecture
from nas_cli.errors import DataError
from nas_cli.evaluator import Evaluation
from nas_cli.strategy import Found, Strategy

class Mine(Strategy):
    def __init__(self, problem, *, end: Literal["well", "bug", "input", "signal"] = "well",
                 share: Annotated[float, Field(ge=0, le=1)] = 0.5,
                 number: Annotated[int, Field(gt=0)] = 1) -> None:
        super().__init__(problem)
        self.end, self.share = end, share

    def search(self, run, evaluator):
        if self.end == "bug":
            raise ZeroDivisionError("nobody expected this")
        if self.end == "input":
            raise DataError("image 7 cannot be read")
        if self.end == "signal" and not run.resumed:
            os.kill(os.getpid(), signal.SIGTERM)
            run.raise_if_stopped()
        choices = self.problem.space.choices
        return Found(Architecture((0,) * len(choices)), Evaluation(self.share, 0.0))
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the commands run; `mine` in it is a user's own folder."""
    (tmp_path / "mine" / "strategy").mkdir(parents=True)
    (tmp_path / "mine" / "mine.py").write_text(MINE)
    (tmp_path / "mine" / "strategy" / "mine.yaml").write_text(
        "# Ends at once\n_target_: mine.Mine\nend: well\nshare: 0.5\nnumber: 1\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "mine", raising=False)
    return tmp_path


SEARCH = ["search", "--config-dir", "mine", "strategy=mine", "recipe=smoke", "dataset.limit=60"]


def run_folders(command: str) -> list[Path]:
    return sorted(file.parent for file in Path("outputs", command).rglob("status.json"))


def refusal(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """What is told on stderr of input that is refused with exit code 2 and nothing written."""
    before = sorted(Path.cwd().rglob("*"))
    assert main(list(words)) == 2
    after = [path for path in sorted(Path.cwd().rglob("*")) if "__pycache__" not in str(path)]
    assert after == [path for path in before if "__pycache__" not in str(path)]
    text = capsys.readouterr().err
    assert "Traceback" not in text
    return text


def test_a_search_writes_one_run_folder() -> None:
    assert main(SEARCH) == 0
    (run,) = run_folders("search")
    assert json.loads((run / "status.json").read_text())["status"] == "done"
    assert {"config.yaml", ".hydra", "genotype.json", "search.log"} <= {path.name for path in run.iterdir()}


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["strategy=dartz"], ["strategy=dartz: there is no such option", "Did you mean darts?", "random"]),
        (["-m", "strategy=random,dartz"], ["strategy=dartz: there is no such option"]),
        (["stratgy=darts"], ["stratgy: there is no such setting", "Did you mean strategy?"]),
        (["recipe.epoch=3"], ["recipe.epoch: there is no such setting", "Did you mean recipe.epochs?"]),
        (["+recipe.epoch=3"], ["recipe.epoch: there is no such setting", "Did you mean recipe.epochs?"]),
        (["newkey=1"], ["newkey: there is no such setting"]),
        (["+newkey=1"], ["newkey: there is no such setting"]),
        (["recipe.epochs=fast"], ["recipe.epochs=fast: must be a whole number at least 1"]),
        (["recipe.epochs=true"], ["recipe.epochs=true"]),
        (["recipe.learning_rate=fast"], ["recipe.learning_rate=fast: must be a number above 0"]),
        (
            ["recipe.epochs=0", "recipe.momentum=1.5", "seed=-1"],
            ["3 settings are wrong", "recipe.epochs=0", "recipe.momentum=1.5", "seed=-1"],
        ),
        (["-m", "recipe.epochs=1,0"], ["recipe.epochs=0"]),
        (["dataset=npz"], ["dataset.path= is needed"]),
        (["dataset=npz", "dataset.path=nowhere, here.npz"], ["nowhere, here.npz"]),
        (["recipe.epochs=[1"], ["recipe.epochs=[1 cannot be read"]),
        (["recipe.epochs"], ["recipe.epochs cannot be read"]),
        (["strategy=darts,random"], ["strategy=darts,random names several values", "-m"]),
        (["strategy=null"], ["strategy= is needed", "darts"]),
        (["~strategy"], ["strategy= is needed"]),
        (["strategy._target_=os.system"], ["strategy._target_=os.system: must be a subclass of"]),
        (["recipe=quick,smoke"], ["recipe=quick,smoke names several values"]),
        (["--config-dir", "nowhere"], ["nowhere"]),
        (["--config-name", "nowhere"], ["nowhere"]),
        (["--cgf", "job"], ["--cfg"]),
        (["--cfg", "job", "-m"], ["do not go together"]),
        (["--resume", "nowhere"], ["nowhere"]),
        (["--resume", "mine"], ["mine", "no run"]),
        (["--resume", "mine", "seed=1"], ["--resume", "seed=1"]),
    ],
)
def test_wrong_input_is_told_in_sentences(
    capsys: pytest.CaptureFixture[str], words: list[str], expected: list[str]
) -> None:
    text = refusal(capsys, "search", *words)
    for part in expected:
        assert part in text


def test_a_misspelt_command_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert "search" in refusal(capsys, "serach")


def test_an_output_folder_that_cannot_be_made_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    Path("outputs").write_text("a file in the way")
    assert "is a file" in refusal(capsys, *SEARCH)
    assert "is a file" in refusal(capsys, *SEARCH, "-m", "seed=0,1")


def test_a_folder_with_files_in_it_is_not_used_again(capsys: pytest.CaptureFixture[str]) -> None:
    assert "mine is not empty" in refusal(capsys, *SEARCH, "hydra.run.dir=mine")


def test_input_that_the_command_refuses_leaves_no_folder(capsys: pytest.CaptureFixture[str]) -> None:
    assert "image 7 cannot be read" in refusal(capsys, *SEARCH, "strategy.end=input")


def test_an_unexpected_error_is_one_line_and_a_traceback_in_the_log(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main([*SEARCH, "strategy.end=bug"]) == 1
    (run,) = run_folders("search")
    told = capsys.readouterr().err
    assert "ZeroDivisionError: nobody expected this" in told
    assert str(run / "search.log") in told
    assert "Traceback" not in told
    assert (run / "search.log").read_text().count("Traceback") == 1


def test_the_traceback_comes_with_hydra_full_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    with pytest.raises(ZeroDivisionError):
        main([*SEARCH, "strategy.end=bug"])


def test_a_stopped_search_is_resumed_with_its_own_settings(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*SEARCH, "strategy.end=signal", "seed=3"]) == 143
    (run,) = run_folders("search")
    assert f"nas search --resume {run}" in capsys.readouterr().err
    sys.path[:] = [entry for entry in sys.path if not entry.endswith("mine")]
    assert main(["search", "--resume", str(run)]) == 0
    assert json.loads((run / "status.json").read_text())["status"] == "done"
    assert "nothing to resume" in refusal(capsys, "search", "--resume", str(run))
    assert "nas search" in refusal(capsys, "retrain", "--resume", str(run))


def test_a_sweep_ends_in_a_table_and_a_failing_job_leaves_the_others_running(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main([*SEARCH, "-m", "strategy.end=bug,well", "strategy.share=0.25"]) == 1
    told = capsys.readouterr()
    rows = [line.split() for line in told.out.splitlines() if line.startswith("outputs")]
    assert [row[1] for row in rows] == ["failed", "done"]
    assert rows[1][2] == "0.2500"
    assert "1 of 2 jobs failed" in told.err
    assert [run.name for run in run_folders("search")] == ["0", "1"]


def test_cfg_prints_the_settings_and_writes_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["search", "--cfg", "job", "seed=7"]) == 0
    assert "seed: 7" in capsys.readouterr().out
    assert main(["search", "--info", "searchpath", "-cd", "mine"]) == 0
    assert str(Path("mine").resolve()) in capsys.readouterr().out
    assert not Path("outputs").exists()


def test_a_config_of_the_users_own_is_begun_with() -> None:
    Path("mine/small.yaml").write_text(
        "defaults:\n  - search\n  - override recipe: smoke\n  - override strategy: mine\n  - _self_\n"
        "seed: 5\n"
    )
    assert main(["search", "-cd", "mine", "-cn", "small", "dataset.limit=60"]) == 0
    assert "seed: 5" in (run_folders("search")[0] / "config.yaml").read_text()


def test_the_latest_search_is_profiled(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(SEARCH) == 0
    capsys.readouterr()
    assert main(["profile", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["parameters"] > 0


def test_list_names_what_there_is(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "--config-dir", "mine"]) == 0
    text = capsys.readouterr().out
    assert re.search(r"strategy=mine +Ends at once\n", text)
    assert "genotype=darts_v2" in text
    assert re.search(r"\n  mine +yes +yes", text)


def test_version_and_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"nas {__version__}\n"
    assert main(["search", "--help"]) == 0
    assert "strategy=" in capsys.readouterr().out
    assert main([]) == 2


def test_help_composition_and_completion_do_not_import_torch() -> None:
    script = (
        "import sys\n"
        "from nas_cli.cli import main\n"
        "from nas_cli.completion import complete\n"
        "assert main(['--help']) == main(['search', '--help']) == 0\n"
        "assert not {'torch', 'hydra', 'omegaconf'} & set(sys.modules)\n"
        "assert main(['search', '--cfg', 'job']) == 0\n"
        "assert complete('search', [], 'recipe.l')\n"
        "assert 'torch' not in sys.modules\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(conf_dir().parent)}
    subprocess.run([sys.executable, "-c", script], check=True, env=environment, stdout=subprocess.DEVNULL)


def test_ctrl_c_ends_with_130() -> None:
    script = (
        "import os, signal, sys\n"
        "from nas_cli import cli, jobs\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # it is ignored in the background
        f"jobs.start = lambda request: os.kill(os.getpid(), signal.{signal.SIGINT.name})\n"
        "sys.exit(cli.main(['search']))\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(conf_dir().parent)}
    assert subprocess.run([sys.executable, "-c", script], check=False, env=environment).returncode == 130


@pytest.mark.slow
def test_the_wheel_holds_conf_and_genotypes(tmp_path: Path) -> None:
    checkout = conf_dir().parent
    command = [
        sys.executable,
        "-m",
        "build",
        "--wheel",
        "--no-isolation",
        "--outdir",
        str(tmp_path),
        str(checkout),
    ]
    subprocess.run(command, check=True, capture_output=True)
    names = zipfile.ZipFile(next(tmp_path.glob("*.whl"))).namelist()
    for file in conf_dir().rglob("*.yaml"):
        assert f"nas_cli/conf/{file.relative_to(conf_dir())}" in names
    assert "nas_cli/genotypes/darts_v2.json" in names
