"""The loop, and the training of one network in it."""

import copy
import json
import os
import shutil
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from nas_cli.architecture import Architecture
from nas_cli.data import Batch
from nas_cli.errors import Interrupted, TrainingError, UnsupportedError
from nas_cli.layers.drop_path import DropPath
from nas_cli.network_training import NetworkTraining, accuracy
from nas_cli.recipe import Recipe
from nas_cli.run import Run
from nas_cli.seeds import seeded
from nas_cli.spaces.darts import DartsSpace
from nas_cli.trainer import Trainer, computes_bf16_fast
from nas_cli.training import Descent, Tally, run_epochs
from nas_cli.weight_average import average_of
from tests.checkpoints import saved_state, saved_weights
from tests.toy import INFO, toy_images, toy_run

CPU = Trainer(device="cpu")
Kind = type[NetworkTraining]


class Signalling(NetworkTraining):
    """Sends SIGTERM to this process before its third step."""

    def step(self, step: int, *batches: Batch) -> None:
        if step == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        super().step(step, *batches)


def training(settings: Mapping[str, float] | None = None, kind: Kind = NetworkTraining) -> NetworkTraining:
    """Two epochs of four steps of a network with drop paths."""
    recipe = Recipe(epochs=2, batch_size=16, learning_rate=0.1, **(settings or {}))  # type: ignore[arg-type]
    with seeded(0, "network"):
        space = DartsSpace(INFO, num_cells=3, channels=2, num_nodes=1)
        network = space.build(Architecture((0, 3, 4, 0, 1, 2)), auxiliary_head=recipe.auxiliary_weight > 0)
    return kind(network, toy_images().train, INFO, recipe=recipe, trainer=CPU, seed=0)


def weights(module: nn.Module) -> list[Tensor]:
    return [tensor.clone() for tensor in module.state_dict().values()]


def same(first: Sequence[Tensor], second: Sequence[Tensor]) -> bool:
    return all(torch.equal(one, other) for one, other in zip(first, second, strict=True))


def do_steps(work: NetworkTraining, first: int, last: int) -> None:
    work.start_epoch(first // work.steps_per_epoch)
    for step, batches in enumerate(work.batches(first, last), start=first):
        work.step(step, *batches)


EVERYTHING = {"drop_path": 0.3, "average_decay": 0.9, "mixup": 0.4, "cutmix": 1.0, "auxiliary_weight": 0.4}


# Steps


def test_training_goes_on_from_its_state_bit_for_bit_within_an_epoch() -> None:
    whole = training(EVERYTHING)
    do_steps(whole, 0, 2)
    saved = copy.deepcopy(whole.state_dict())
    do_steps(whole, 2, 4)
    resumed = training(EVERYTHING)
    resumed.load_state_dict(saved)
    do_steps(resumed, 2, 4)
    assert same(weights(whole.network), weights(resumed.network))
    assert same(weights(whole.trained), weights(resumed.trained))
    assert whole.end_epoch(0) == resumed.end_epoch(0)


def test_the_drop_path_rate_grows_linearly_from_zero() -> None:
    work = training({"drop_path": 0.4})
    rates = []
    for step in range(8):
        do_steps(work, step, step + 1)
        rates.append({module.rate for module in work.network.modules() if isinstance(module, DropPath)})
    assert rates == [{0.4 * step / 8} for step in range(8)]


def test_a_drop_path_rate_without_paths_to_drop_is_refused() -> None:
    recipe, network = Recipe(batch_size=16, drop_path=0.1), nn.Sequential(nn.Flatten(), nn.Linear(64, 2))
    with pytest.raises(UnsupportedError, match="has no paths to drop"):
        NetworkTraining(network, toy_images().train, INFO, recipe=recipe, trainer=CPU, seed=0)


def test_without_an_average_the_last_weights_are_used() -> None:
    work = training()
    assert work.trained is work.network


def test_the_averaged_weights_are_the_ones_used() -> None:
    work, plain = training({"average_decay": 0.9}), training()
    do_steps(work, 0, 4)
    do_steps(plain, 0, 4)
    assert same(weights(work.network), weights(plain.network))
    assert not same(weights(work.trained), weights(work.network))


def test_the_average_forgets_the_first_weights_soon_and_later_ones_slowly() -> None:
    network = nn.Linear(1, 1, bias=False)
    average = average_of(network, decay=0.5)
    averaged = []
    for value in (1.0, 0.0, *[0.0] * 30, 1.0):
        nn.init.constant_(network.weight, value)
        average.update_parameters(network)
        averaged.append(float(average.module.state_dict()["weight"]))
    assert averaged[:2] == pytest.approx([1.0, 2 / 11])
    assert averaged[-1] == pytest.approx(0.5)


def test_the_average_has_batch_statistics_and_their_count() -> None:
    norm = nn.BatchNorm2d(1)
    average = average_of(norm, decay=0.9)
    for _ in range(2):
        norm(torch.full((2, 1, 2, 2), 10.0))
        average.update_parameters(norm)
    averaged = average.module.state_dict()
    assert float(averaged["running_mean"]) == pytest.approx(1.0 * 2 / 11 + 1.9 * 9 / 11)
    assert int(averaged["num_batches_tracked"]) == 2


def test_the_loss_counts_the_auxiliary_head_with_its_weight() -> None:
    work, plain = training({"auxiliary_weight": 0.4}), training()
    batch = next(work.batches(0, 1))[0]
    output = work.network.train()(batch.images)
    main, auxiliary = (plain.recipe.loss(logits, batch.labels).item() for logits in output)
    do_steps(work, 0, 1)
    loss = work.tally.figures("train")["train_loss"]
    assert loss == pytest.approx(main + 0.4 * auxiliary, rel=1e-4)


def descend(gradient: float, clip: float) -> float:
    """The weight after one step from zero at learning rate 1 under that gradient."""
    weight = nn.Parameter(torch.zeros(1))
    settings = {"learning_rate": 1.0, "momentum": 0.0, "weight_decay": 0.0, "gradient_clip": clip}
    descent = Descent([weight], Recipe(**settings), epochs=1, steps_per_epoch=1)  # type: ignore[arg-type]
    descent.set_learning_rate(0)
    loss = (gradient * weight).sum()
    loss.backward()
    descent.step(loss, 0)
    return weight.item()


def test_a_gradient_is_cut_to_the_largest_norm() -> None:
    assert descend(8.0, clip=5.0) == pytest.approx(-5.0)
    assert descend(3.0, clip=5.0) == pytest.approx(-3.0)
    assert descend(8.0, clip=0.0) == pytest.approx(-8.0)


# What is not finite


def test_a_loss_that_is_not_finite_is_told_with_its_step_and_learning_rate() -> None:
    weight = nn.Parameter(torch.zeros(1))
    descent = Descent([weight], Recipe(learning_rate=0.5), epochs=1, steps_per_epoch=10)
    descent.set_learning_rate(0)
    with pytest.raises(TrainingError, match=r"loss of step 7 is nan at learning rate 0\.5") as caught:
        descent.step(weight.sum() * float("nan"), 7)
    assert "recipe.gradient_clip (now 5)" in str(caught.value)


def test_a_weight_that_is_not_finite_is_found_before_a_checkpoint() -> None:
    weight = nn.Parameter(torch.tensor([1.0, float("inf")]))
    descent = Descent([weight], Recipe(), epochs=1, steps_per_epoch=10)
    with pytest.raises(TrainingError, match="no longer finite before step 4"):
        descent.check(4)


def test_a_loss_that_was_not_finite_is_found_before_a_checkpoint() -> None:
    descent = Descent([nn.Parameter(torch.ones(1))], Recipe(), epochs=1, steps_per_epoch=10)
    tally = Tally(torch.device("cpu"))
    descent.check(4, tally)
    tally.add(torch.tensor(float("inf")), torch.zeros(1, 2), torch.zeros(1, dtype=torch.int64))
    with pytest.raises(TrainingError, match="what was saved before is kept"):
        descent.check(4, tally)


class Diverging(NetworkTraining):
    """The last step of the second epoch leaves weights that are not finite, and no loss shows it."""

    def step(self, step: int, *batches: Batch) -> None:
        super().step(step, *batches)
        if step == 7:
            with torch.no_grad():
                next(self.network.parameters()).fill_(float("nan"))


def test_weights_that_are_not_finite_never_replace_a_checkpoint(tmp_path: Path) -> None:
    work = training(kind=Diverging)
    with pytest.raises(TrainingError, match="before step 8"), toy_run(tmp_path) as run:
        run_epochs(work, run)
    assert saved_state(tmp_path)["epoch"] == 1
    assert all(tensor.isfinite().all() for tensor in saved_weights(tmp_path, "network").values())
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 1
    assert json.loads((tmp_path / "status.json").read_text())["status"] == "failed"


# The loop


def test_training_stopped_within_an_epoch_ends_as_one_that_was_not(tmp_path: Path) -> None:
    whole, cut, resumed = training(EVERYTHING), training(EVERYTHING, Signalling), training(EVERYTHING)
    with toy_run(tmp_path / "whole") as run:
        run_epochs(whole, run)
    with pytest.raises(Interrupted), toy_run(tmp_path / "cut") as run:
        run_epochs(cut, run)
    with Run.resume(tmp_path / "cut", "search") as run:
        run_epochs(resumed, run)
    assert same(weights(whole.network), weights(resumed.network))
    assert figures(tmp_path / "whole") == figures(tmp_path / "cut")


def figures(folder: Path) -> list[tuple[float, float]]:
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [(record["epoch"], record["train_loss"]) for record in map(json.loads, lines)]


def test_an_epoch_is_recorded_with_its_loss_accuracy_and_pace(tmp_path: Path) -> None:
    with toy_run(tmp_path) as run:
        run_epochs(training(), run)
    first, second = map(json.loads, (tmp_path / "metrics.jsonl").read_text().splitlines())
    assert (first["epoch"], second["epoch"]) == (1, 2)
    assert first["seconds"] * first["images_per_second"] == pytest.approx(4 * 16)
    assert {"train_loss", "train_accuracy", "learning_rate", "memory_mb"} <= first.keys()


def test_training_learns_what_is_bright_and_what_is_dark() -> None:
    data, network = toy_images(), nn.Sequential(nn.Flatten(), nn.Linear(64, 2))
    recipe = Recipe(epochs=5, batch_size=16, learning_rate=0.1, shift=0)
    work = NetworkTraining(network, data.train, INFO, recipe=recipe, trainer=CPU, seed=0)
    run_epochs(work)
    assert accuracy(work.trained, data.test, INFO, CPU, batch_size=10) == 100.0


def test_accuracy_is_a_percentage_of_all_images() -> None:
    linear = nn.Linear(64, 2)
    nn.init.zeros_(linear.weight)
    linear.bias.data = torch.tensor([1.0, 0.0])
    always_dark = nn.Sequential(nn.Flatten(), linear)
    assert accuracy(always_dark, toy_images().test, INFO, CPU, batch_size=10) == 50.0


def test_training_in_bfloat16_keeps_its_weights_in_float32() -> None:
    recipe = Recipe(epochs=1, steps_per_epoch=1, batch_size=16)
    network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(72, 2))
    trainer = Trainer(device="cpu", precision="bf16")
    work = NetworkTraining(network, toy_images().train, INFO, recipe=recipe, trainer=trainer, seed=0)
    run_epochs(work)
    assert {tensor.dtype for tensor in weights(work.network)} == {torch.float32}


def test_left_to_itself_retraining_is_in_bfloat16_where_that_is_fast_and_a_search_never() -> None:
    fast = computes_bf16_fast(torch.device("cpu"))
    assert Trainer("retrain", device="cpu").precision == ("bf16" if fast else "fp32")
    assert Trainer("search", device="cpu").precision == "fp32"


def test_a_precision_that_is_asked_for_is_taken() -> None:
    assert Trainer("retrain", device="cpu", precision="fp32").precision == "fp32"
    assert Trainer("search", device="cpu", precision="bf16").precision == "bf16"


def test_a_trainer_says_what_it_trains_on() -> None:
    assert str(Trainer(device="cpu", precision="bf16")) == "cpu, bf16, channels_last"


def test_training_in_bfloat16_sums_batch_statistics_in_float32() -> None:
    images = torch.full((2, 3, 64, 64), 1.0).bfloat16()  # in bfloat16 a sum of ones stops at 256
    norm = nn.BatchNorm2d(3, momentum=1.0)
    with Trainer(device="cpu", precision="bf16").autocast():
        norm(images)
    assert norm.running_mean is not None
    assert norm.running_mean.tolist() == [1.0, 1.0, 1.0]
    assert norm.running_mean.dtype == torch.float32


def test_a_step_in_parts_takes_the_mean_of_their_gradients() -> None:
    moved = []
    for accumulate in (1, 4):
        with seeded(0, "network"):
            network = nn.Sequential(nn.Flatten(), nn.Linear(64, 2))
        recipe = Recipe(epochs=1, steps_per_epoch=2, batch_size=16, accumulate=accumulate)
        work = NetworkTraining(network, toy_images().train, INFO, recipe=recipe, trainer=CPU, seed=0)
        run_epochs(work)
        moved.append(weights(work.network))
    for whole, parts in zip(*moved, strict=True):
        torch.testing.assert_close(parts, whole, atol=1e-6, rtol=1e-5)


def test_the_gradient_of_a_step_in_parts_is_the_mean_of_those_of_its_parts() -> None:
    work = training({"accumulate": 2, "gradient_clip": 0.0, "momentum": 0.0, "weight_decay": 0.0})
    start, halves = weights(work.network), training()
    (batch,) = next(iter(work.batches(0, 1)))
    means = [torch.zeros_like(parameter) for parameter in halves.network.parameters()]
    for images, labels in zip(batch.images.chunk(2), batch.labels.chunk(2), strict=True):
        loss = nn.functional.cross_entropy(halves.network(images), labels) / 2
        for mean, gradient in zip(
            means, torch.autograd.grad(loss, list(halves.network.parameters())), strict=True
        ):
            mean += gradient
    names = [name for name, _ in work.network.named_parameters()]
    before = dict(zip(work.network.state_dict(), start, strict=True))
    work.start_epoch(0)
    work.step(0, batch)
    after = dict(work.network.named_parameters())
    for name, mean in zip(names, means, strict=True):
        torch.testing.assert_close(before[name] - after[name], 0.1 * mean, atol=1e-6, rtol=1e-4)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
def test_a_compiled_training_ends_with_the_weights_of_one_that_is_not() -> None:
    ended = []
    for mode in ("off", "default"):
        with seeded(0, "network"):
            drop = nn.Sequential(nn.Conv2d(1, 2, 3), DropPath())
            network = nn.Sequential(drop, nn.BatchNorm2d(2), nn.ReLU(), nn.Flatten(), nn.Linear(72, 2))
        recipe = Recipe(epochs=1, batch_size=16, drop_path=0.5)
        trainer = Trainer("retrain", device="cpu", precision="fp32", compile=mode)
        work = NetworkTraining(network, toy_images().train, INFO, recipe=recipe, trainer=trainer, seed=0)
        run_epochs(work)
        ended.append(dict(work.network.state_dict()))
    torch.testing.assert_close(ended[1], ended[0], atol=1e-5, rtol=1e-4)


def test_a_search_is_not_compiled() -> None:
    with pytest.raises(UnsupportedError, match=r"trainer.compile=default: a search is not compiled"):
        Trainer("search", device="cpu", compile="default")


def test_cuda_graphs_need_cuda() -> None:
    with pytest.raises(UnsupportedError, match=r"trainer.compile=reduce-overhead records CUDA graphs"):
        Trainer("retrain", device="cpu", compile="reduce-overhead")


def test_compiling_on_the_processor_needs_a_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(UnsupportedError, match="needs a C\\+\\+ compiler, and there is no no-such-compiler"):
        Trainer("retrain", device="cpu", compile="default")
