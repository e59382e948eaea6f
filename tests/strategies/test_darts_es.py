"""DARTS-ES: the eigenvalue, and when the search stops."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from nas_cli.data import Batch
from nas_cli.run import Run
from nas_cli.strategies.darts_es import DartsEarlyStopping, lanczos
from nas_cli.supernet import Gate
from tests.strategies.small import random_batch, small
from tests.toy import BEST, CountBest, toy_problem, toy_run


class OneBatch:
    """The data whose every batch is the same."""

    def batch(self, step: int) -> Batch:
        return random_batch(2)


def exact_hessian(strategy: DartsEarlyStopping) -> Tensor:
    """Of the loss on the batch of OneBatch with respect to all logits side by side."""
    shapes = strategy.supernet.gate_shapes
    buffers = {name: buffer.clone() for name, buffer in strategy.supernet.named_buffers()}

    def loss(flat: Tensor) -> Tensor:
        parts = flat.split([rows * candidates for rows, candidates in shapes])
        gates = [Gate.soft(part.view(shape).softmax(-1)) for part, shape in zip(parts, shapes, strict=True)]
        logits = torch.func.functional_call(strategy.supernet, buffers, (random_batch(2).images, gates))
        return torch.nn.functional.cross_entropy(logits, random_batch(2).labels)

    flat = torch.cat([logits.detach().flatten() for logits in strategy.logits])
    hessian: Tensor = torch.autograd.functional.hessian(loss, flat)
    return hessian


def test_the_eigenvalue_is_the_largest_of_the_exact_hessian() -> None:
    strategy = small(DartsEarlyStopping, num_products=30)
    strategy.valid_data = OneBatch()  # type: ignore[assignment]
    expected = torch.linalg.eigvalsh(exact_hessian(strategy))[-1]
    assert strategy.largest_eigenvalue() == pytest.approx(float(expected), rel=1e-8)


def test_a_few_products_come_close_to_the_largest_eigenvalue() -> None:
    strategy = small(DartsEarlyStopping)
    strategy.valid_data = OneBatch()  # type: ignore[assignment]
    expected = torch.linalg.eigvalsh(exact_hessian(strategy))[-1]
    assert strategy.largest_eigenvalue() == pytest.approx(float(expected), rel=1e-2)


def test_measuring_changes_nothing_of_what_is_measured() -> None:
    strategy = DartsEarlyStopping(toy_problem())
    small_one = small(DartsEarlyStopping)
    small_one.valid_data = OneBatch()  # type: ignore[assignment]
    for measured in (strategy, small_one):
        before = {name: value.clone() for name, value in measured.supernet.state_dict().items()}
        logits = [rows.detach().clone() for rows in measured.logits]
        assert measured.largest_eigenvalue() == measured.largest_eigenvalue()
        assert all(torch.equal(value, before[name]) for name, value in measured.supernet.state_dict().items())
        assert all(map(torch.equal, measured.logits, logits))
        assert all(weight.requires_grad and weight.grad is None for weight in measured.supernet.parameters())


def test_the_largest_eigenvalue_is_not_the_one_of_largest_size() -> None:
    matrix = torch.diag(torch.tensor([-9.0, 1.0, 3.0]).double())
    assert lanczos(lambda vector: matrix @ vector, torch.ones(3).double(), 10) == pytest.approx(3.0)


def test_lanczos_ends_where_the_matrix_is_zero() -> None:
    assert lanczos(torch.zeros_like, torch.ones(4), 10) == 0.0


@pytest.mark.parametrize(
    ("eigenvalues", "stops_at"),
    [
        ([1.0] * 12, None),
        ([1.0, 1.0, 1.0, 1.0, 1.4, 1.4], None),  # (1 + 1) / (1.4 + 1.4) is above 0.7
        ([1.0, 1.0, 1.0, 1.0, 1.5, 1.5], 2),
        ([1.0, 1.0, 1.5, 1.5], None),  # the middle of the earlier window is before the first epoch
    ],
)
def test_the_search_stops_where_the_mean_before_is_below_the_threshold(
    eigenvalues: list[float], stops_at: int | None
) -> None:
    strategy = Scripted(toy_problem(epochs=12), window=2, lag=2, threshold=0.7, first_epoch=2)
    strategy.script = eigenvalues
    for epoch in range(len(eigenvalues)):
        assert not strategy.finished
        strategy.end_epoch(epoch)
    assert strategy.finished == (stops_at is not None)
    assert strategy.before_the_rise() == stops_at


class Scripted(DartsEarlyStopping):
    """Eigenvalues as written down beforehand, and logits that point elsewhere each epoch."""

    script: list[float]

    def largest_eigenvalue(self) -> float:
        return self.script[len(self.eigenvalues)]

    def start_epoch(self, epoch: int) -> None:
        super().start_epoch(epoch)
        self.warming_up = True
        for logits in self.logits:
            logits.data = torch.eye(3)[epoch % 3].unsqueeze(0)


def scripted(epochs: int = 9) -> Scripted:
    strategy = Scripted(toy_problem(epochs=epochs), window=2, lag=2, threshold=0.7, first_epoch=1)
    strategy.script = [1.0, 1.0, 1.0, 1.0, 1.0, 2.0, 4.0, 8.0, 16.0]
    return strategy


def test_a_stopped_search_returns_the_architecture_of_before_the_rise(tmp_path: Path) -> None:
    strategy = scripted()
    with toy_run(tmp_path / "run") as run:
        found = strategy.search(run, CountBest())
    # The means of epochs 2, 3 and 4, 5 are 1 and 1.5: back to epoch 2, where candidate 2 led.
    assert len(strategy.eigenvalues) == 6
    assert found.architecture == BEST


def test_a_stopped_search_that_is_resumed_stays_stopped(tmp_path: Path) -> None:
    with toy_run(tmp_path / "run") as run:
        found = scripted().search(run, CountBest())
    status = tmp_path / "run" / "status.json"
    status.write_text(status.read_text().replace("done", "interrupted"))
    with Run.resume(tmp_path / "run", "search") as run:
        resumed = scripted()
        assert resumed.search(run, CountBest()) == found
    assert len(resumed.eigenvalues) == 6
