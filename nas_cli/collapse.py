"""What a gradient search must watch: how sure its gates are, and whether cells fill up with skip connections.

Skip connections train fastest early in a search, so the architecture parameters of DARTS drift towards
them; a cell that is mostly skips does well in the supernet and badly on its own (arXiv:1909.09656).
"""

import math
from collections import defaultdict
from collections.abc import Sequence

import torch
from torch import Tensor

from nas_cli.architecture import Architecture
from nas_cli.space import SearchSpace

SKIP = "skip_connect"


def gate_entropy(weights: Sequence[Tensor]) -> float:
    """Mean entropy of the gates' rows as a share of its maximum: 1 undecided, 0 one candidate each.

    Each row counts as shares of its sum. A row of one candidate decides nothing and is not counted; without
    any other the entropy is 0.
    """
    rows = [
        torch.special.entr(gate / gate.sum(1, keepdim=True)).sum(1) / math.log(gate.shape[1])
        for gate in weights
        if gate.shape[1] > 1
    ]
    return float(torch.cat(rows).mean()) if rows else 0.0


def skip_shares(space: SearchSpace, architecture: Architecture) -> dict[str, float]:
    """{kind of cell: share of its operations that are skips}.

    The kind is the first word of a choice's name where the space draws cells of that name, `cell` elsewhere.
    """
    kinds, operations = space.cells(architecture), defaultdict(list)
    for choice, pick in zip(space.choices, architecture.picks, strict=True):
        if SKIP in choice.options:
            kind = choice.name.split(".")[0]
            operations[kind if kind in kinds else "cell"].append(choice.options[pick] == SKIP)
    return {kind: sum(skips) / len(skips) for kind, skips in operations.items()}


def undecided_note(entropy: float) -> str | None:
    """One sentence for the user where the gates that an architecture is derived from say little."""
    if entropy < 0.95:
        return None
    return (
        f"The gates are almost undecided (entropy {entropy:.3f} of 1): the derived cell is close to a random "
        "one, and its score with shared weights says little until it is retrained; a longer search "
        "(recipe.epochs) or a higher strategy.learning_rate lets them decide."
    )


def collapse_warning(space: SearchSpace, architecture: Architecture) -> str | None:
    """One sentence for the user where a cell is mostly skips, None elsewhere."""
    shares = {kind: share for kind, share in skip_shares(space, architecture).items() if share > 0.5}
    if not shares:
        return None
    found = " and ".join(f"{share:.0%} of the {kind} operations" for kind, share in shares.items())
    return (
        f"{found} are skip connections: the search has collapsed, and such a cell scores well inside the "
        "supernet but badly on its own; search for fewer epochs (recipe.epochs), start the architecture "
        "later (strategy.warmup_epochs), lower strategy.learning_rate or raise strategy.weight_decay."
    )
