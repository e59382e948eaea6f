"""The recurrent controller that writes architectures choice by choice, and how its policy is improved."""

from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nas_cli.architecture import Architecture, Choice
from nas_cli.errors import ConfigError
from nas_cli.optimizers import Adam
from nas_cli.seeds import seeded
from nas_cli.training import State

HIDDEN_SIZE = 100
NUM_LAYERS = 2


class Controller(nn.Module):
    """An LSTM of two layers of 100 units with one linear head a choice (arXiv:1611.01578, 1707.07012).

    It reads the embedding of the pick before, first that of a start token, and gives the logits of the
    next pick. Logits z become `tanh_constant` tanh(z / `temperature`); tanh_constant None leaves out the
    tanh (arXiv:1802.03268). Its weights start uniform in [-0.1, 0.1]. It stays on the CPU: a pick is a few
    microseconds of work, and picks are needed on the host.
    """

    def __init__(
        self,
        choices: Sequence[Choice],
        seed: int,
        *,
        temperature: float = 1.0,
        tanh_constant: float | None = None,
    ) -> None:
        super().__init__()
        sizes = [len(choice.options) for choice in choices]
        self.first_rows = torch.tensor(list(accumulate(sizes[:-1], initial=1)))  # row 0 is the start token
        self.temperature = temperature
        self.tanh_constant = tanh_constant
        with seeded(seed, "controller"):
            self.embedding = nn.Embedding(1 + sum(sizes), HIDDEN_SIZE)
            self.lstm = nn.LSTM(HIDDEN_SIZE, HIDDEN_SIZE, NUM_LAYERS, batch_first=True)
            self.heads = nn.ModuleList(nn.Linear(HIDDEN_SIZE, size) for size in sizes)
            for parameter in self.parameters():
                nn.init.uniform_(parameter, -0.1, 0.1)

    @torch.no_grad()
    def sample(self, generator: torch.Generator, count: int = 1) -> Tensor:
        """Picks (count, choices) of `count` architectures."""
        return self._write(count, lambda logits: torch.multinomial(logits.softmax(1), 1, generator=generator))

    @torch.no_grad()
    def most_likely(self) -> Architecture:
        """The likeliest pick at each choice, given those before."""
        return architectures_of(self._write(1, lambda logits: logits.argmax(1, keepdim=True)))[0]

    def _write(self, count: int, choose: Callable[[Tensor], Tensor]) -> Tensor:
        """One choice after the other; `choose` gives picks (count, 1) of logits (count, options)."""
        row, memory, picks = torch.zeros(count, 1, dtype=torch.int64), None, []
        for choice, first_row in enumerate(self.first_rows):
            states, memory = self.lstm(self.embedding(row), memory)
            picks.append(choose(self._logits(choice, states[:, 0])))
            row = first_row + picks[-1]
        return torch.cat(picks, dim=1)

    def read(self, picks: Tensor) -> tuple[Tensor, Tensor]:
        """Log-probability and entropy, both (count,), of architectures with picks (count, choices).

        The entropy is the sum over the choices of that of the pick given the picks before.
        """
        rows = F.pad(self.first_rows + picks, (1, 0))[:, :-1]
        states, _ = self.lstm(self.embedding(rows))
        log_probabilities, entropies = [], []
        for choice, pick in enumerate(picks.T):
            log_shares = self._logits(choice, states[:, choice]).log_softmax(1)
            log_probabilities.append(log_shares.gather(1, pick[:, None])[:, 0])
            entropies.append(-(log_shares.exp() * log_shares).sum(1))
        return torch.stack(log_probabilities).sum(0), torch.stack(entropies).sum(0)

    def _logits(self, choice: int, states: Tensor) -> Tensor:
        logits: Tensor = self.heads[choice](states) / self.temperature
        return logits if self.tanh_constant is None else self.tanh_constant * torch.tanh(logits)


def architectures_of(picks: Tensor) -> list[Architecture]:
    """The architectures that rows of picks (count, choices) spell."""
    return [Architecture(tuple(row)) for row in picks.tolist()]


def reinforce_loss(log_probabilities: Tensor, advantages: Tensor) -> Tensor:
    """Minus its gradient is an unbiased estimate of the gradient of the expected reward (Williams 1992)."""
    return -(advantages * log_probabilities).mean()


def clipped_loss(log_probabilities: Tensor, old: Tensor, advantages: Tensor, clip: float) -> Tensor:
    """PPO's (arXiv:1707.06347): a probability gains nothing by moving further than a share of `clip`."""
    ratios = torch.exp(log_probabilities - old)
    gains = torch.minimum(advantages * ratios, advantages * ratios.clamp(1 - clip, 1 + clip))
    return -gains.mean()


class Reinforce:
    """REINFORCE with Adam, a moving average of the rewards as baseline and an entropy bonus.

    The advantages are divided by their moving root mean square: `entropy_weight` then means the same
    for scores in percent, in shares or in ranks.
    """

    def __init__(
        self,
        controller: Controller,
        *,
        learning_rate: float,
        baseline_decay: float,
        entropy_weight: float,
    ) -> None:
        self.controller = controller
        self.optimizer = Adam(controller.parameters(), lr=learning_rate)
        self.baseline_decay = baseline_decay
        self.entropy_weight = entropy_weight
        self.baseline: float | None = None  # the first reward
        self.mean_square = 0.0

    def update(self, picks: Tensor, rewards: Tensor) -> None:
        """Learn from the rewards (count,) of architectures with picks (count, choices)."""
        self._learn(picks, self._advantages(rewards))

    def _advantages(self, rewards: Tensor) -> Tensor:
        mean, decay = float(rewards.mean()), self.baseline_decay
        baseline = mean if self.baseline is None else self.baseline
        advantages = rewards - baseline
        self.baseline = decay * baseline + (1 - decay) * mean
        self.mean_square = decay * self.mean_square + (1 - decay) * float(advantages.square().mean())
        spread: float = max(self.mean_square**0.5, 1e-8)
        return advantages / spread

    def _learn(self, picks: Tensor, advantages: Tensor) -> None:
        log_probabilities, entropies = self.controller.read(picks)
        self._descend(reinforce_loss(log_probabilities, advantages), entropies)

    def _descend(self, loss: Tensor, entropies: Tensor) -> None:
        self.optimizer.zero_grad()
        (loss - self.entropy_weight * entropies.mean()).backward()
        self.optimizer.step()

    def state_dict(self) -> State:
        return {
            "controller": self.controller.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "baseline": self.baseline,
            "mean_square": self.mean_square,
        }

    def load_state_dict(self, state: State) -> None:
        self.controller.load_state_dict(cast(dict[str, Tensor], state["controller"]))
        self.optimizer.load_state_dict(cast(State, state["optimizer"]))
        self.baseline = cast(float | None, state["baseline"])
        self.mean_square = cast(float, state["mean_square"])


class ProximalPolicy(Reinforce):
    """Proximal policy optimisation (arXiv:1707.06347): several steps on one batch, each ratio clipped."""

    def __init__(
        self,
        controller: Controller,
        *,
        learning_rate: float,
        baseline_decay: float,
        entropy_weight: float,
        clip: float,
        num_epochs: int,
    ) -> None:
        super().__init__(
            controller,
            learning_rate=learning_rate,
            baseline_decay=baseline_decay,
            entropy_weight=entropy_weight,
        )
        self.clip = clip
        self.num_epochs = num_epochs

    def _learn(self, picks: Tensor, advantages: Tensor) -> None:
        with torch.no_grad():
            old, _ = self.controller.read(picks)
        for _ in range(self.num_epochs):
            log_probabilities, entropies = self.controller.read(picks)
            self._descend(clipped_loss(log_probabilities, old, advantages, self.clip), entropies)


def make_policy(
    controller: Controller,
    algorithm: Literal["reinforce", "ppo"],
    *,
    learning_rate: float,
    baseline_decay: float,
    entropy_weight: float,
    ppo_clip: float | None,
    ppo_epochs: int | None,
) -> Reinforce:
    """The settings of PPO are None for 0.2 and 4. Raises ConfigError where REINFORCE is given them."""
    learning = {
        "learning_rate": learning_rate,
        "baseline_decay": baseline_decay,
        "entropy_weight": entropy_weight,
    }
    if algorithm == "ppo":
        return ProximalPolicy(controller, **learning, clip=ppo_clip or 0.2, num_epochs=ppo_epochs or 4)
    for name, value in {"ppo_clip": ppo_clip, "ppo_epochs": ppo_epochs}.items():
        if value is not None:
            raise ConfigError(
                f"strategy.{name}={value} has no effect on strategy.algorithm=reinforce. "
                "Leave it out, or set strategy.algorithm=ppo."
            )
    return Reinforce(controller, **learning)
