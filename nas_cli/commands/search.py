"""`nas search`: find an architecture and leave it as genotype.json."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import cast

from omegaconf import DictConfig, OmegaConf

from nas_cli import preflight, ranks
from nas_cli.architecture import Architecture, Json
from nas_cli.commands.setup import make_genotype, make_problem, make_tracker, plain
from nas_cli.config import build
from nas_cli.drawing import svg_of
from nas_cli.errors import UnsupportedError
from nas_cli.evaluator import Evaluator
from nas_cli.evaluators.from_scratch import FromScratch
from nas_cli.evaluators.shared_weights import SharedWeights
from nas_cli.executor import Executor
from nas_cli.executors.serial import Serial
from nas_cli.progress import duration, print_table
from nas_cli.report import report_after
from nas_cli.run import Run
from nas_cli.sampling import SamplingStrategy
from nas_cli.strategy import Found, Problem, Strategy
from nas_cli.supernet import Supernet
from nas_cli.weight_sharing import WeightSharingStrategy


def run(config: DictConfig, folder: Path, *, resume: bool = False) -> None:
    """Search in a run folder; with `resume`, go on with the search that it holds."""
    problem = make_problem(config)
    strategy = build(Strategy, config.strategy, problem)
    evaluator = make_evaluator(config, problem, strategy.supernet)
    _check_together(strategy)
    strategy.check_evaluator(evaluator)
    executor = make_executor(config, strategy)
    tracker = make_tracker(config)
    expectation = None
    if config.preflight and not resume:
        room = preflight.room_of(plain(config), problem.trainer.device, folder)
        expectation = preflight.of_search(strategy, evaluator, room)
    run = Run.resume(folder, "search") if resume else Run.create(folder, "search", plain(config))
    run.follow(tracker)
    with run:
        run.log.debug(f"Searched on: {problem.trainer}")
        preflight.tell(run, expectation)
        run.write_json("images.json", cast(Json, problem.data.info.to_json()))
        with executor.scoring(evaluator, partial(_make_evaluator_anew, run.config), run.log) as scoring:
            found = strategy.search(run, scoring)
        found_by = _found_by(run, found, evaluator)
        genotype = make_genotype(run, problem.space, found.architecture, found_by)
        run.write_text("genotype.svg", svg_of(problem.space.cells(found.architecture)))
        run.write_text("genotype.json", genotype.to_json())
    report_after(folder)
    print_table("search", _rows(run, problem, found.architecture, found_by, evaluator.unit))


def make_evaluator(config: DictConfig, problem: Problem, supernet: Supernet | None) -> Evaluator:
    """`evaluator=auto` trains from scratch what is sampled, and reads the supernet where there is one."""
    if config.evaluator:
        return build(Evaluator, config.evaluator, problem, supernet)
    return FromScratch(problem) if supernet is None else SharedWeights(problem, supernet)


def make_executor(config: DictConfig, strategy: Strategy) -> Executor:
    """Raises UnsupportedError where several candidates at a time have no meaning."""
    executor = build(Executor, config.executor)
    one_by_one = isinstance(executor, Serial) and executor.in_flight == 1
    if not isinstance(strategy, SamplingStrategy) and not one_by_one:
        raise UnsupportedError(
            f"executor={type(executor).__name__.lower()} executor.in_flight={executor.in_flight}: "
            f"{type(strategy).__name__} trains one supernet and has no candidates to be scored side by side. "
            "Leave executor out, or take a strategy that samples, such as strategy=evolution."
        )
    return executor


def _check_together(strategy: Strategy) -> None:
    """Raise UnsupportedError where several processes have no supernet to train together."""
    if ranks.size() > 1 and not isinstance(strategy, WeightSharingStrategy):
        raise UnsupportedError(
            f"trainer.devices and trainer.nodes: {type(strategy).__name__} trains its candidates one by one, "
            "and they are small. Leave both out, and score several candidates side by side with "
            "executor=processes or executor=ray."
        )


def _make_evaluator_anew(config: Mapping[str, Json]) -> Evaluator:
    """In a worker process."""
    settings = OmegaConf.create(dict(config))
    return make_evaluator(settings, make_problem(settings), None)


def _found_by(run: Run, found: Found, evaluator: Evaluator) -> dict[str, Json]:
    return {
        "strategy": str(run.settings("strategy")["_target_"]).rsplit(".", 1)[-1],
        "seed": run.seed,
        "run": str(run.folder),
        "score": found.evaluation.score,
        "unit": evaluator.unit,
        "seconds": run.seconds,
        **evaluator.report(found.architecture),
    }


def _rows(
    run: Run, problem: Problem, architecture: Architecture, found_by: dict[str, Json], unit: str
) -> dict[str, str]:
    rows = {"genotype": problem.space.spell(architecture), "score": f"{found_by['score']:.2f} {unit}"}
    if "test_accuracy" in found_by:
        rows["test accuracy"] = f"{found_by['test_accuracy']:.2f} %"
    return rows | {
        "time": duration(run.seconds),
        "drawing": str(run.path("genotype.svg")),
        "file": str(run.path("genotype.json")),
        "report": str(run.path("report.html")),
        "next": f"nas retrain genotype={run.path('genotype.json')}",
    }
