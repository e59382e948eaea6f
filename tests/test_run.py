import errno
import importlib.metadata
import json
import logging
import os
import resource
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

import psutil
import pytest
import torch

from nas_cli.architecture import Json
from nas_cli.errors import Interrupted, RunError, TrainingError
from nas_cli.run import Run, find_latest, find_run, write_atomically

CONFIG: dict[str, Json] = {
    "seed": 7,
    "space": {"_target_": "nas_cli.spaces.darts.Darts", "rate": 1e-5, "text": "1e-5"},
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "run"


def interrupted_run(folder: Path, command: str = "search") -> None:
    with pytest.raises(Interrupted), Run.create(folder, command, CONFIG):
        raise Interrupted("stop", 2)


def done_run(folder: Path, command: str = "search") -> None:
    with Run.create(folder, command, CONFIG):
        pass


def status_of(folder: Path) -> dict[str, float | str | None]:
    content: dict[str, float | str | None] = json.loads((folder / "status.json").read_text())
    return content


# The folder


def test_a_run_leaves_its_config_environment_and_status(folder: Path) -> None:
    with Run.create(folder, "search", CONFIG):
        assert status_of(folder)["status"] == "running"
    environment = json.loads((folder / "environment.json").read_text())
    assert environment["seed"] == 7
    assert environment["torch"] == importlib.metadata.version("torch")
    assert {
        "python",
        "torchvision",
        "numpy",
        "nas_cli",
        "commit",
        "processor",
        "gpu",
        "threads",
        "argv",
    } <= set(environment)
    status = status_of(folder)
    assert status["status"] == "done"
    assert status["command"] == "search"
    assert float(str(status["peak_memory_mb"])) > 10


def test_numbers_and_number_like_texts_survive_the_config_file(folder: Path) -> None:
    done_run(folder)
    assert Run.open(folder).config == CONFIG


def test_a_folder_that_is_a_file_is_refused(folder: Path) -> None:
    folder.write_text("")
    with pytest.raises(RunError, match=r"cannot be written.*hydra\.run\.dir"):
        Run.create(folder, "search", CONFIG)


def test_a_folder_below_a_file_is_refused(folder: Path) -> None:
    folder.write_text("")
    with pytest.raises(RunError, match=r"cannot be written \(Not a directory\)"):
        Run.create(folder / "run", "search", CONFIG)


def test_a_folder_that_holds_a_run_is_never_overwritten(folder: Path) -> None:
    done_run(folder)
    with pytest.raises(RunError, match="already holds a run"):
        Run.create(folder, "search", CONFIG)


def test_two_runs_cannot_work_in_one_folder(folder: Path) -> None:
    with Run.create(folder, "search", CONFIG):
        second = Run.resume(folder, "search")
        with (
            pytest.raises(
                RunError, match=rf"Another process works in .*: process {os.getpid()} on .*, since 20"
            ),
            second,
        ):
            pass


# How it ended


def test_an_error_is_written_in_one_line_and_its_traceback_is_logged(folder: Path) -> None:
    with pytest.raises(ZeroDivisionError), Run.create(folder, "search", CONFIG):
        raise ZeroDivisionError("two\nlines")
    assert status_of(folder)["status"] == "failed"
    assert status_of(folder)["error"] == "ZeroDivisionError: two lines"
    assert "Traceback" in (folder / "search.log").read_text()


def test_an_error_of_ours_is_written_as_its_sentence(folder: Path) -> None:
    with pytest.raises(TrainingError), Run.create(folder, "search", CONFIG):
        raise TrainingError("The loss is not a number at epoch 3.")
    assert status_of(folder)["error"] == "The loss is not a number at epoch 3."
    assert "Traceback" not in (folder / "search.log").read_text()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_only_asks_to_stop(folder: Path, number: signal.Signals) -> None:
    before = signal.getsignal(number)

    def work() -> None:
        with Run.create(folder, "search", CONFIG) as run:
            run.raise_if_stopped()
            assert run.signal_received is None
            os.kill(os.getpid(), number)
            assert run.signal_received == number
            run.raise_if_stopped()

    with pytest.raises(Interrupted, match=r"nas search --resume .*run") as stopped:
        work()
    assert stopped.value.exit_code == 128 + number
    assert status_of(folder)["status"] == "interrupted"
    assert signal.getsignal(number) == before


def test_a_run_under_nohup_outlives_its_terminal(folder: Path) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with Run.create(folder, "search", CONFIG) as run:
            os.kill(os.getpid(), signal.SIGHUP)
            assert run.signal_received is None
    finally:
        signal.signal(signal.SIGHUP, before)
    assert status_of(folder)["status"] == "done"


def test_the_second_interrupt_stops_at_once(folder: Path) -> None:
    def work() -> None:
        with Run.create(folder, "search", CONFIG):
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        work()
    assert status_of(folder)["status"] == "interrupted"


def test_a_run_works_outside_the_main_thread(folder: Path) -> None:
    thread = threading.Thread(target=done_run, args=(folder,))
    thread.start()
    thread.join()
    assert status_of(folder)["status"] == "done"


# Resume


def test_resume_continues_the_files_and_adds_up_the_seconds(folder: Path) -> None:
    with suppress(Interrupted), Run.create(folder, "search", CONFIG) as run:
        run.append_metrics({"epoch": 0, "loss": 2.5})
        run.append_history({"picks": [1, 2]})
        raise Interrupted("stop", 15)
    first = status_of(folder)
    write_atomically(folder / "status.json", json.dumps({**first, "seconds": 100.0}).encode())
    with Run.resume(folder, "search") as run:
        assert run.resumed
        assert run.config == CONFIG
        assert status_of(folder)["status"] == "running"
        run.append_metrics({"epoch": 1, "loss": 2.0})
        run.append_history({"picks": [2, 2]})
        assert run.metrics() == [{"epoch": 0, "loss": 2.5}, {"epoch": 1, "loss": 2.0}]
        assert run.history() == [{"picks": [1, 2]}, {"picks": [2, 2]}]
    assert 100 <= float(str(status_of(folder)["seconds"])) < 110
    assert Run.open(folder).seconds == status_of(folder)["seconds"]
    assert status_of(folder)["start"] == first["start"]


def test_a_killed_run_keeps_the_seconds_until_its_checkpoint_and_can_be_resumed(folder: Path) -> None:
    script = (
        "import os, sys, time; from pathlib import Path; from nas_cli.run import Run\n"
        "with Run.create(Path(sys.argv[1]), 'search', {'seed': 1}) as run:\n"
        "    time.sleep(0.2); run.append_history({'score': 0.5}); run.save_checkpoint({'epoch': 1})\n"
        "    os.kill(os.getpid(), 9)\n"
    )
    subprocess.run([sys.executable, "-c", script, str(folder)], cwd=Path(__file__).parents[1], check=False)
    assert status_of(folder)["status"] == "running"
    assert float(str(status_of(folder)["seconds"])) >= 0.2
    with Run.resume(folder, "search") as run:
        assert run.load_checkpoint() == {"epoch": 1}
        assert run.history() == [{"score": 0.5}]


def test_only_an_unfinished_run_of_the_command_can_be_resumed(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="There is no run folder"):
        Run.resume(tmp_path / "nothing", "search")
    with pytest.raises(RunError, match="is no run folder"):
        Run.resume(tmp_path, "search")
    interrupted_run(folder, "retrain")
    with pytest.raises(RunError, match=r"a run of `nas retrain`, not of `nas search`"):
        Run.resume(folder, "search")
    done_run(tmp_path / "done")
    with pytest.raises(RunError, match="already done"):
        Run.resume(tmp_path / "done", "search")


def test_a_run_without_its_config_cannot_be_opened(folder: Path) -> None:
    interrupted_run(folder)
    (folder / "config.yaml").write_text("{a: [")
    with pytest.raises(RunError, match=r"config\.yaml is missing or damaged"):
        Run.open(folder)


# Lines


def test_a_torn_last_line_is_dropped_and_cut_off_before_the_next(folder: Path) -> None:
    interrupted_run(folder)
    (folder / "history.jsonl").write_bytes(b'{"score": 1}\n{"score": 2}\n{"sco')
    with Run.resume(folder, "search") as run:
        assert run.history() == [{"score": 1}, {"score": 2}]
        run.append_history({"score": 3})
        assert (folder / "history.jsonl").read_bytes() == b'{"score": 1}\n{"score": 2}\n{"score": 3}\n'


def test_a_damaged_line_in_the_middle_is_an_error_that_names_it(folder: Path) -> None:
    interrupted_run(folder)
    (folder / "history.jsonl").write_bytes(b'{"score": 1}\n{"sco\n{"score": 2}\n')
    with pytest.raises(RunError, match=r"history\.jsonl, line 2 is no JSON object"):
        Run.open(folder).history()


def test_lines_that_the_checkpoint_does_not_know_are_taken_back(folder: Path) -> None:
    with Run.create(folder, "search", CONFIG) as run:
        for epoch in range(3):
            run.append_metrics({"epoch": epoch})
            run.append_history({"index": epoch})
        run.keep_history(1)
        run.append_history({"index": 10})
        assert run.history() == [{"index": 0}, {"index": 10}]
        run.keep_metrics(0)
        assert run.metrics() == []
        with pytest.raises(RunError, match="holds 2 lines, but the checkpoint beside it was saved after 5"):
            run.keep_history(5)


def test_not_a_number_stays_valid_json(folder: Path) -> None:
    with Run.create(folder, "search", CONFIG) as run:
        run.append_metrics({"epoch": 0, "loss": float("nan"), "inner": {"rates": [float("inf"), 1.0]}})
        run.write_json("result.json", {"loss": float("-inf")})
        assert run.metrics() == [{"epoch": 0, "loss": None, "inner": {"rates": [None, 1.0]}}]
        assert run.read_json("result.json") == {"loss": None}


def test_tensorboard_shows_numbers_and_hides_what_a_resume_repeats(folder: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import (  # type: ignore[import-untyped]
        EventAccumulator,
    )

    with suppress(Interrupted), Run.create(folder, "search", CONFIG) as run:
        for epoch in range(3):
            run.append_metrics({"epoch": epoch, "loss": 3.0 - epoch, "phase": "warm-up", "best": True})
        raise Interrupted("stop", 2)
    with Run.resume(folder, "search") as run:
        run.keep_metrics(1)
        run.append_metrics({"epoch": 1, "loss": 9.0})
    events = EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    assert events.Tags()["scalars"] == ["loss"]
    assert [(event.step, event.value) for event in events.Scalars("loss")] == [(0, 3.0), (1, 9.0)]


def test_curves_that_the_disk_does_not_take_are_a_sentence(folder: Path) -> None:
    with Run.create(folder, "search", CONFIG) as run:
        run.path("tensorboard").write_text("where the folder should be")
        with pytest.raises(TrainingError, match=r"tensorboard could not be written .*--resume"):
            run.append_metrics({"epoch": 1, "loss": 0.5})


def test_curves_need_no_thread_and_are_on_the_disk_at_once(folder: Path) -> None:
    """A thread that starts as memory runs out is waited for for ever."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with Run.create(folder, "search", CONFIG) as run:
        threads = threading.active_count()
        run.append_metrics({"epoch": 0, "loss": 3.0})
        assert threading.active_count() == threads
        events = EventAccumulator(str(folder / "tensorboard"))
        events.Reload()
        assert [event.value for event in events.Scalars("loss")] == [3.0]


def test_a_run_without_metrics_makes_no_tensorboard_folder(folder: Path) -> None:
    done_run(folder)
    assert not (folder / "tensorboard").exists()


# Whole files


def crash(*arguments: object) -> NoReturn:
    raise KeyboardInterrupt


def test_a_crash_before_the_rename_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "genotype.json"
    write_atomically(path, b"old")
    monkeypatch.setattr(os, "replace", crash)
    with pytest.raises(KeyboardInterrupt):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"could not be written \(No such file or directory\)"):
        write_atomically(tmp_path / "gone" / "genotype.json", b"new")


def test_a_missing_or_damaged_file_is_a_sentence(folder: Path) -> None:
    with Run.create(folder, "search", CONFIG) as run:
        with pytest.raises(RunError, match=r"result\.json cannot be read"):
            run.read_json("result.json")
        run.write_text("result.json", "{")
        with pytest.raises(RunError, match=r"result\.json is damaged"):
            run.read_json("result.json")


# The checkpoint


@pytest.fixture
def saved(folder: Path) -> Iterator[Run]:
    with Run.create(folder, "search", CONFIG) as run:
        assert run.load_checkpoint() is None
        run.save_checkpoint({"weights": {"w": torch.arange(1000.0)}, "epoch": 3, "picks": [1, None, "a"]})
        yield run


def test_a_checkpoint_comes_back_as_it_was(saved: Run) -> None:
    state = saved.load_checkpoint()
    assert state is not None
    assert state["epoch"] == 3
    assert state["picks"] == [1, None, "a"]
    weights = state["weights"]
    assert isinstance(weights, dict)
    assert torch.equal(weights["w"], torch.arange(1000.0))


TENSORS = {
    "float": torch.arange(6.0).view(2, 3),
    "another float": torch.tensor([[1.5]]),
    "whole": torch.tensor([1, 2]),
    "bytes": torch.arange(5, dtype=torch.uint8),
    "half": torch.ones(3, dtype=torch.bfloat16),
    "a number": torch.tensor(4),
    "nothing": torch.empty(0, 4),
    "channels last": torch.arange(120.0).view(2, 3, 4, 5).contiguous(memory_format=torch.channels_last),
    "every second": torch.arange(10.0)[::2],
    "repeated": torch.ones(1).expand(3),
}


def test_tensors_come_back_with_type_shape_and_memory_format(saved: Run) -> None:
    saved.save_checkpoint(
        {"nested": [{0: tensor} for tensor in TENSORS.values()], "pair": (1, TENSORS["half"])}
    )
    state = saved.load_checkpoint()
    assert state is not None
    nested, pair = state["nested"], state["pair"]
    assert isinstance(nested, list)
    for found, tensor in zip(nested, TENSORS.values(), strict=True):
        assert found[0].dtype == tensor.dtype
        assert found[0].shape == tensor.shape
        assert torch.equal(found[0], tensor)
    assert nested[7][0].is_contiguous(memory_format=torch.channels_last)
    assert isinstance(pair, tuple)
    assert torch.equal(pair[1], TENSORS["half"])


def test_a_name_that_stands_for_tensors_is_refused_on_saving(saved: Run) -> None:
    with pytest.raises(TypeError, match=r"state\['a'\]: the name 'tensor' alone stands for a tensor"):
        saved.save_checkpoint({"a": {"tensor": 3}})


@pytest.mark.parametrize("damage", ["cut", "flipped bit", "empty", "text"])
def test_a_damaged_checkpoint_is_a_sentence_with_a_remedy(saved: Run, damage: str) -> None:
    path = saved.path("checkpoint.pt")
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    damaged: dict[str, bytes] = {
        "cut": bytes(data[:-100]),
        "flipped bit": bytes(data),
        "empty": b"",
        "text": b"hello",
    }
    path.write_bytes(damaged[damage])
    with pytest.raises(RunError, match=r"checkpoint\.pt is damaged.*Remove that file.*nas search --resume"):
        saved.load_checkpoint()


@pytest.mark.parametrize("damage", [b"", b"hello", None])
def test_a_damaged_checkpoint_is_passed_over_for_the_one_before(
    saved: Run, damage: bytes | None, capsys: pytest.CaptureFixture[str]
) -> None:
    saved.save_checkpoint({"epoch": 4})
    newest = saved.path("checkpoint.pt")
    newest.unlink() if damage is None else newest.write_bytes(damage)
    for _ in range(2):  # the one before is then the newest
        state = saved.load_checkpoint()
        assert state is not None
        assert state["epoch"] == 3
    assert capsys.readouterr().err.count("goes on from the checkpoint before it") == 1


def test_a_checkpoint_whose_metrics_are_lost_is_passed_over_for_the_one_before(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with Run.create(folder, "search", CONFIG) as run:
        for epoch in (1, 2):
            run.append_metrics({"epoch": epoch})
            run.save_checkpoint({"epoch": epoch})
        metrics = run.path("metrics.jsonl")
    metrics.write_bytes(metrics.read_bytes()[:-5])
    assert Run.open(folder).load_checkpoint() == {"epoch": 2}
    run.write_json("status.json", {**run.status(), "status": "interrupted"})
    with Run.resume(folder, "search") as resumed:
        assert resumed.load_checkpoint() == {"epoch": 1}
    assert "lines that were written before it are lost" in capsys.readouterr().err


def test_two_damaged_checkpoints_are_named(saved: Run) -> None:
    saved.save_checkpoint({"epoch": 4})
    for name in ("checkpoint.pt", "checkpoint.previous.pt"):
        saved.path(name).write_bytes(b"hello")
    with pytest.raises(RunError, match=r"checkpoint\.pt and .*checkpoint\.previous\.pt are damaged"):
        saved.load_checkpoint()


def test_a_crash_between_the_renames_of_a_checkpoint_loses_nothing_saved_before(
    saved: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", crash)
        with pytest.raises(KeyboardInterrupt):
            saved.save_checkpoint({"epoch": 4})
    state = saved.load_checkpoint()
    assert state is not None
    assert state["epoch"] == 3


def test_a_checkpoint_of_other_settings_is_refused(saved: Run) -> None:
    config = saved.path("config.yaml")
    config.write_text(config.read_text().replace("seed: 7", "seed: 8"))
    with pytest.raises(RunError, match="from other settings"):
        saved.load_checkpoint()


def test_a_checkpoint_of_another_format_is_refused(saved: Run) -> None:
    torch.save({"format": 99, "fingerprint": "", "state": {}}, saved.path("checkpoint.pt"))
    with pytest.raises(RunError, match="has format 99"):
        saved.load_checkpoint()


def test_a_value_that_could_not_be_loaded_is_refused_on_saving(saved: Run) -> None:
    with pytest.raises(TypeError, match=r"state\['rng'\]\[0\] is of <class 'object'>"):
        saved.save_checkpoint({"rng": [object()]})
    assert saved.load_checkpoint() is not None


FULL_DISK = """
import resource, sys
from pathlib import Path
from nas_cli.errors import NasError
from nas_cli.run.tensorboard import TensorBoard
resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
curves = TensorBoard(Path(sys.argv[1]) / "tensorboard")
try:
    curves.add({"epoch": 1, "train_loss": 2.0})
except NasError as error:
    print(error)
curves.close()
"""


def test_curves_that_are_not_taken_are_told_of_once(tmp_path: Path) -> None:
    words = [sys.executable, "-c", FULL_DISK, str(tmp_path)]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    assert "tensorboard could not be written (File too large)" in done.stdout
    assert not done.stderr


# Memory


def test_no_memory_left_is_a_sentence_with_remedies(folder: Path) -> None:
    with (
        pytest.raises(TrainingError, match=r"no memory left .*recipe\.batch_size.*--resume") as caught,
        Run.create(folder, "search", CONFIG),
    ):
        torch.empty(2**50)
    assert "can't allocate memory" in str(caught.value.__cause__)
    assert "no memory left" in str(Run.open(folder).status()["error"])


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("can't start new thread"),
        RuntimeError("could not create a primitive"),
        ImportError("/lib/_c.so: failed to map segment from shared object"),
        OSError(errno.ENOMEM, os.strerror(errno.ENOMEM)),
    ],
)
def test_no_memory_for_a_thread_a_convolution_a_library_or_a_file_is_told_of_as_well(
    folder: Path, error: Exception
) -> None:
    with pytest.raises(TrainingError, match="no memory left"), Run.create(folder, "search", CONFIG):
        raise error


@pytest.mark.parametrize(
    "error",
    [
        SystemError("error return without exception set"),
        ImportError("cannot import name 'a' from 'b'"),
        AttributeError("partially initialized module 'a' has no attribute 'b'"),
    ],
)
def test_a_library_that_fails_without_a_reason_at_the_limit_of_memory_has_none_left(
    folder: Path, error: Exception
) -> None:
    limits = resource.getrlimit(resource.RLIMIT_AS)
    with pytest.raises(type(error)), Run.create(folder, "search", CONFIG):
        raise error
    resource.setrlimit(resource.RLIMIT_AS, (psutil.Process().memory_info().vms, limits[1]))
    try:
        with pytest.raises(TrainingError, match="no memory left"), Run.create(folder / "2", "search", CONFIG):
            raise error
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limits)


# The log


def test_each_line_comes_once_in_the_file_and_once_on_stderr_even_with_hydras_logging(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder.mkdir()
    root = logging.getLogger()
    hydras: list[logging.Handler] = [
        logging.StreamHandler(sys.stdout),
        logging.FileHandler(folder / "search.log"),
    ]
    for handler in hydras:
        root.addHandler(handler)
    try:
        for name in ("run", "other"):
            with Run.create(folder.parent / name, "search", CONFIG) as run:
                run.log.info("found one in %s", name)
                run.log.debug("detail")
                run.log.warning("slow")
    finally:
        for handler in hydras:
            root.removeHandler(handler)
            handler.close()
    output = capsys.readouterr()
    assert output.err.splitlines() == [
        "found one in run",
        "WARNING: slow",
        "found one in other",
        "WARNING: slow",
    ]
    assert output.out == ""
    assert (folder / "search.log").read_text().count("found one in run") == 1
    assert (folder / "search.log").read_text().count("detail") == 1


def test_no_handler_is_left_behind(folder: Path) -> None:
    logger = logging.getLogger("nas_cli")
    before = (list(logger.handlers), logger.level, logger.propagate)
    interrupted_run(folder)
    assert (logger.handlers, logger.level, logger.propagate) == before


# Finding runs


def test_latest_is_the_finished_run_that_ended_last(tmp_path: Path) -> None:
    done_run(tmp_path / "search" / "b")
    done_run(tmp_path / "search" / "multirun" / "a" / "0")
    interrupted_run(tmp_path / "search" / "c")
    done_run(tmp_path / "retrain" / "d", "retrain")
    assert find_latest(tmp_path, ("search",)) == tmp_path / "search" / "multirun" / "a" / "0"
    assert find_latest(tmp_path, ("search", "retrain")) == tmp_path / "retrain" / "d"
    assert find_run("latest", tmp_path, "search") == tmp_path / "search" / "multirun" / "a" / "0"


def test_a_run_that_just_begins_or_is_damaged_is_not_the_latest(tmp_path: Path) -> None:
    done_run(tmp_path / "search" / "a")
    (tmp_path / "search" / "b").mkdir()
    (tmp_path / "search" / "b" / "status.json").write_text("")
    assert find_latest(tmp_path, ("search",)) == tmp_path / "search" / "a"


def test_where_there_is_no_run_the_command_to_make_one_is_named(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"no finished run of `nas search`. Make one with `nas search`"):
        find_latest(tmp_path, ("search",))


def test_a_path_must_be_a_run_of_the_command(tmp_path: Path) -> None:
    interrupted_run(tmp_path / "a")
    assert find_run(str(tmp_path / "a"), tmp_path, "search") == tmp_path / "a"
    with pytest.raises(RunError, match="this needs one of `nas retrain`"):
        find_run(str(tmp_path / "a"), tmp_path, "retrain")
