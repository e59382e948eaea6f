"""What is particular to ProxylessNAS: two candidates compete, and latency is in the loss."""

import itertools
from pathlib import Path

import pytest
import torch

from nas_cli.data import Batch
from nas_cli.errors import ConfigError, DivergedError
from nas_cli.latency import LatencyTable, Term
from nas_cli.strategies.proxyless import Proxyless, _through_softmax
from nas_cli.timing import Conditions
from tests.toy import toy_problem


def batch_of(strategy: Proxyless) -> Batch:
    return strategy.valid_data.batch(0)


def test_the_gradient_of_two_gates_goes_through_the_softmax_of_the_two() -> None:
    logits = torch.tensor([[0.3, -0.2, 0.9], [1.0, 0.0, -1.0]], requires_grad=True)
    pair, for_gates = torch.tensor([[0, 2], [2, 1]]), torch.tensor([[0.5, 9.0, -1.0], [9.0, 2.0, 0.25]])
    shares = torch.gather(logits, 1, pair).softmax(1)
    (shares * torch.gather(for_gates, 1, pair)).sum().backward()
    torch.testing.assert_close(_through_softmax(logits.detach(), pair, for_gates), logits.grad)


def test_what_is_not_drawn_keeps_its_probability() -> None:
    strategy = Proxyless(toy_problem(), learning_rate=0.5)
    before = [rows.clone() for rows in strategy.gate_weights()]
    strategy.update_architecture(batch_of(strategy), batch_of(strategy), strategy.descent)
    for old, new in zip(before, strategy.gate_weights(), strict=True):
        changed = (old - new).abs() > 1e-6
        assert changed.sum() == 2
        assert new.sum() == pytest.approx(1.0)


def test_weights_are_trained_under_one_candidate_of_each_row() -> None:
    (gates,) = Proxyless(toy_problem()).paths()
    assert [len(row) for gate in gates for row in gate.active] == [1, 1, 1]
    assert all(gate.weights.sum() == 1 for gate in gates)


def test_probabilities_that_are_not_finite_stop_the_search_with_a_remedy() -> None:
    strategy = Proxyless(toy_problem())
    strategy.logits[0].data.fill_(float("nan"))
    with pytest.raises(DivergedError, match=r"probabilities are no longer finite.*Lower recipe"):
        strategy.step(0, batch_of(strategy), batch_of(strategy))


def table_file(folder: Path, fingerprint: str) -> str:
    """Losing the image takes a millisecond, keeping it a hundred."""
    times = itertools.product(range(3), enumerate([1.0, 1.0, 100.0]))
    terms = tuple(Term(((gate, 0, candidate),), ms) for gate, (candidate, ms) in times)
    table = LatencyTable(Conditions("a processor", "cpu", 1, 1), fingerprint, 0.0, terms)
    (folder / "latency.json").write_text(table.to_json())
    return str(folder / "latency.json")


@pytest.mark.parametrize("latency_loss", ["add", "multiply"])
def test_latency_draws_the_gates_to_the_fast_candidates(
    latency_loss: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nas_cli.latency.fingerprint_of", lambda space, info: "toy")
    strategy = Proxyless(
        toy_problem(),
        learning_rate=0.1,
        latency_table=table_file(tmp_path, "toy"),
        latency_loss=latency_loss,  # type: ignore[arg-type]
        latency_weight=10.0,
        target_ms=30.0,
    )
    for step in range(80):
        strategy.draws.manual_seed(step)
        strategy.update_architecture(batch_of(strategy), batch_of(strategy), strategy.descent)
    assert all(rows[0, 2] < 0.1 for rows in strategy.gate_weights())


def test_a_target_without_a_table_and_a_table_without_a_target_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no effect without"):
        Proxyless(toy_problem(), target_ms=3.0)
    with pytest.raises(ConfigError, match="There is no latency table"):
        Proxyless(toy_problem(), latency_table=str(tmp_path / "none.json"), target_ms=3.0)
