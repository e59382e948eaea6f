"""Sweeps whose jobs other packages launch: the same table, whoever runs them."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from nas_cli.cli import main

LAUNCHERS = {
    "joblib": ["hydra.launcher.n_jobs=2"],
    "submitit_local": ["hydra.launcher.timeout_min=10"],
    "ray": ["+hydra.launcher.ray.init.num_cpus=2"],
}
SEARCH = ["strategy=random", "strategy.num_evaluations=2", "evaluator=from_scratch", "evaluator.epochs=1"]
SMALL = ["space=nasbench201", "space.channels=4", "space.num_cells=1", "recipe.steps_per_epoch=4"]
SMALL += ["recipe.batch_size=8", "preflight=false", "trainer.device=cpu"]


@pytest.mark.slow
@pytest.mark.parametrize("name", LAUNCHERS)
def test_a_sweep_of_four_jobs_tells_of_all(name: str, tmp_path: Path) -> None:
    """Two of them diverge."""
    if importlib.util.find_spec(f"hydra_plugins.hydra_{name.removesuffix('_local')}_launcher") is None:
        pytest.skip(f"hydra-{name.removesuffix('_local')}-launcher is not installed")
    words = [*SEARCH, *SMALL, "seed=0,1", "recipe.learning_rate=0.025,1e30", f"hydra/launcher={name}"]
    done = subprocess.run(
        [sys.executable, "-m", "nas_cli", "search", "-m", *words, *LAUNCHERS[name], "hydra.sweep.dir=sweep"],
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    lines = [line.split() for line in done.stdout.splitlines() if line.startswith(("sweep/", "folder "))]
    assert [line[:2] for line in lines] == [
        ["folder", "status"],
        ["sweep/0", "done"],
        ["sweep/1", "failed"],
        ["sweep/2", "done"],
        ["sweep/3", "failed"],
    ]
    assert lines[1][3:] == ["seed=0", "recipe.learning_rate=0.025"]
    assert (done.returncode, "2 of 4 jobs failed; their logs say why." in done.stderr) == (1, True)
    assert (tmp_path / "sweep" / "report.html").is_file()


@pytest.mark.slow
def test_optuna_chooses_the_jobs_by_what_was_scored(tmp_path: Path) -> None:
    if importlib.util.find_spec("hydra_plugins.hydra_optuna_sweeper") is None:
        pytest.skip("hydra-optuna-sweeper is not installed")
    sweeper = ["direction=maximize", "n_trials=4", "n_jobs=1", "sampler.seed=0"]
    words = ["genotype=darts_v2", "space.num_cells=3", "space.channels=4", "recipe=smoke", "preflight=false"]
    swept = ["recipe.learning_rate=tag(log, interval(0.005, 0.2))", "recipe.cutout=choice(0, 2)"]
    done = subprocess.run(
        [sys.executable, "-m", "nas_cli", "retrain", "-m", "hydra/sweeper=optuna", *words, *swept,
         *(f"hydra.sweeper.{setting}" for setting in sweeper), "hydra.sweep.dir=sweep"],
        cwd=tmp_path, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    lines = [line.split() for line in done.stdout.splitlines() if line.startswith("sweep/")]
    best = yaml.safe_load((tmp_path / "sweep" / "optimization_results.yaml").read_text())
    assert [line[1] for line in lines] == ["done"] * 4
    assert best["best_value"] == pytest.approx(max(float(line[2]) for line in lines), abs=1e-4)
    assert set(best["best_params"]) == {"recipe.learning_rate", "recipe.cutout"}


@pytest.mark.parametrize(
    ("override", "extra"),
    [("hydra/launcher=submitit_slurm", "submitit"), ("hydra/sweeper=optuna", "optuna")],
)
def test_a_plugin_that_is_not_installed_is_named_with_its_extra(
    override: str,
    extra: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    kind = override.partition("=")[0].removeprefix("hydra/")
    if importlib.util.find_spec(f"hydra_plugins.hydra_{extra}_{kind}"):
        pytest.skip("it is installed")
    monkeypatch.chdir(tmp_path)
    assert main(["search", "-m", override, "seed=0,1"]) == 2
    assert f"pip install 'nas-cli[{extra}]'" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
