"""MLflow against a tracking server that the test starts, a local database, and a dead server."""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from nas_cli.cli import main

mlflow = pytest.importorskip("mlflow", reason="mlflow is not installed (pip install 'nas-cli[mlflow]')")
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

TINY = ["space=nasbench201", "space.num_cells=1", "space.channels=4", "recipe=smoke", "dataset.limit=60"]
TINY += ["trainer.device=cpu", "preflight=false", "tracker=mlflow"]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for(url: str, server: subprocess.Popen[bytes]) -> None:
    for _ in range(600):
        assert server.poll() is None, "the server has ended"
        try:
            with urllib.request.urlopen(f"{url}/health"):
                return
        except (urllib.error.URLError, ConnectionError):
            time.sleep(0.2)
    raise TimeoutError(url)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder, port = tmp_path_factory.mktemp("server"), free_port()
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port)]
    command += ["--workers", "1", "--backend-store-uri", f"sqlite:///{folder / 'mlflow.db'}"]
    command += ["--artifacts-destination", str(folder / "files")]
    with (folder / "server.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, cwd=folder, start_new_session=True)
    try:
        wait_for(f"http://127.0.0.1:{port}", process)
        yield f"http://127.0.0.1:{port}"
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait()


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_a_search_and_a_retraining_are_on_the_server(server: str) -> None:
    tracked = [*TINY, f"tracker.uri={server}", "tracker.experiment=mine"]
    assert main(["search", *tracked, "hydra.run.dir=searched"]) == 0
    retrained = [word for word in tracked if not word.startswith("space")]
    assert main(["retrain", "genotype=searched/genotype.json", *retrained, "hydra.run.dir=trained"]) == 0
    client = mlflow.MlflowClient(tracking_uri=server)
    experiment = client.get_experiment_by_name("mine")
    trained, searched = client.search_runs(
        [experiment.experiment_id], order_by=["attributes.start_time DESC"]
    )
    assert [run.info.status for run in (searched, trained)] == ["FINISHED", "FINISHED"]
    assert searched.data.params["space.channels"] == "4"
    assert searched.data.tags["folder"] == str(Path("searched").resolve())
    curve = client.get_metric_history(searched.info.run_id, "train_loss")
    assert [point.step for point in curve] == list(range(1, len(curve) + 1))
    files = {file.path for file in client.list_artifacts(trained.info.run_id)}
    assert {"config.yaml", "genotype.json", "result.json"} <= files


def test_a_server_that_is_down_costs_a_warning(capsys: pytest.CaptureFixture[str]) -> None:
    uri = f"tracker.uri=http://127.0.0.1:{free_port()}"
    assert main(["search", *TINY, uri, "hydra.run.dir=searched"]) == 0
    assert "tracker=mlflow failed, so the run goes on without it" in capsys.readouterr().err
    assert Path("searched/genotype.json").is_file()


def test_a_local_database_needs_no_server() -> None:
    assert main(["search", *TINY, "tracker.uri=sqlite:///own.db", "hydra.run.dir=searched"]) == 0
    client = mlflow.MlflowClient(tracking_uri="sqlite:///own.db")
    (run,) = client.search_runs([client.get_experiment_by_name("nas").experiment_id])
    assert run.info.status == "FINISHED"
