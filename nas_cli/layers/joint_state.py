"""States that are ready at the same time, pushed to the same targets together: the fast form's main path.

Where the same candidates run on all edges, a candidate computes all its edges in one go, unless it is a stack
of convolutions that is quicker edge by edge. Edges are ordered by target, those of one target by source: as
blocks, see `blocks.py`.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from nas_cli.layers.forms import Forms
from nas_cli.layers.joint_stacks import Edges, JointForms, push_stacks
from nas_cli.layers.linear_mix import images_of_targets, mix_linearly
from nas_cli.layers.operations import Pool, SeparableStack
from nas_cli.layers.precision import outside_autocast
from nas_cli.layers.share import Share
from nas_cli.layers.shared_state import Outgoing, SharedState, is_linear, linear_values, push_edges
from nas_cli.layers.statistics import Statistics
from nas_cli.supernet import Gate

# Of so many values, doing all that an edge's images need while a processor's cache has them takes less than
# bringing the edges of a candidate together, which saves calls
APART = 1 << 16


def push(
    modules: Sequence[SharedState],
    states: Sequence[Tensor],
    gates: Sequence[Gate],
    num_targets: int,
    statistics: Statistics,
) -> list[list[Share]]:
    """What the edges of each state bring to their targets; a state's edges are ordered by target."""
    joint = _joint_candidates(modules, gates, states[0])
    with outside_autocast(states[0]):
        forms = [Forms.of(state, statistics) for state in states]
        shares = [[Share() for _ in gate.active] for gate in gates]
        if joint:
            values = _push_jointly(modules, forms, gates, joint, num_targets)
            for share, value in zip(shares[0][:: len(shares[0]) // num_targets], values, strict=True):
                share.values.append(value)
        others = [k for k in range(len(modules[0].candidates)) if k not in joint]
        push_edges(
            [
                Outgoing(form, module.groups(gate, arriving, others), len(arriving))
                for module, form, gate, arriving in zip(modules, forms, gates, shares, strict=True)
            ]
        )
        return shares


def _joint_candidates(modules: Sequence[SharedState], gates: Sequence[Gate], state: Tensor) -> list[int]:
    """Those that compute all edges in one go: where the same run on all."""
    running = gates[0].active[0]
    if any(active != running for gate in gates for active in gate.active):
        return []
    return [k for k in running if _is_joint(modules[0].operation(0, k), state)]


def _is_joint(operation: nn.Module, state: Tensor) -> bool:
    """In evaluation mode each edge's pooling has statistics of its own."""
    if isinstance(operation, SeparableStack):
        return state.device.type != "cpu" or state.numel() < APART
    if isinstance(operation, Pool):
        return operation.norm is None or operation.norm.training
    return isinstance(operation, nn.Identity)


def _push_jointly(
    modules: Sequence[SharedState],
    forms: Sequence[Forms],
    gates: Sequence[Gate],
    candidates: Sequence[int],
    num_targets: int,
) -> tuple[Tensor, ...]:
    """For each target the images that its edges bring there."""
    slots = len(modules[0].rows) // num_targets
    edges = Edges(tuple(source for source in range(len(modules)) for _ in range(slots)), num_targets)
    weights = torch.stack([gate.weights.unflatten(0, (num_targets, slots)) for gate in gates], 1)
    columns = weights.unbind(3)
    linear = [k for k in candidates if is_linear(modules[0].operation(0, k))]
    total = None
    if linear:
        per_source = weights.sum(2).unbind(2)
        mixing = torch.stack([per_source[k] for k in linear], 2).flatten(1)
        total = mix_linearly(mixing, _linear_images(modules, forms, linear))
    stacks = [(_on_all_edges(modules, k, edges), columns[k].flatten()) for k in candidates if k not in linear]
    if stacks:
        total = push_stacks(JointForms(forms, edges), stacks, total)
    assert total is not None
    n, _, h, w = forms[0].state.shape
    stride = modules[0].stride
    return images_of_targets(total, (n, -(-h // stride), -(-w // stride)))


def _linear_images(
    modules: Sequence[SharedState], forms: Sequence[Forms], candidates: Sequence[int]
) -> list[Tensor]:
    """Of each source, what each candidate makes of it: the same on all its edges."""
    return [
        linear_values(form, [module.operation(row, k) for row in range(len(module.rows))])[0]
        for module, form in zip(modules, forms, strict=True)
        for k in candidates
    ]


def _on_all_edges(modules: Sequence[SharedState], candidate: int, edges: Edges) -> list[SeparableStack]:
    """By target, then source."""
    slots = len(modules[0].rows) // edges.num_targets
    operations = [
        module.operation(target * slots + slot, candidate)
        for target in range(edges.num_targets)
        for module in modules
        for slot in range(slots)
    ]
    return [operation for operation in operations if isinstance(operation, SeparableStack)]
