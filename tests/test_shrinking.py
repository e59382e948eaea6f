"""Progressive shrinking: the steps of phases, what they open, and the lists that are refused."""

import random

import pytest

from nas_cli.architecture import Choice
from nas_cli.errors import ConfigError
from nas_cli.shrinking import Kind, Phase, Shrinking
from nas_cli.strategies.ofa import PHASES

CHOICES = (
    Choice("stage0.depth", (2, 3, 4)),
    Choice("stage0.layer0.kernel", (3, 5, 7)),
    Choice("stage0.layer0.expansion", (3, 4, 6)),
    Choice("stage0.operation", ("conv3x3", "sep_conv3x3")),
)
WITHOUT_KERNELS = (Choice("depth", (2, 4)), Choice("stage0.channels", (8, 16)))


def shrinking(
    *phases: Phase, choices: tuple[Choice, ...] = CHOICES, num_steps: int = 100, with_teacher: bool = True
) -> Shrinking:
    return Shrinking(phases, choices, num_steps, with_teacher=with_teacher)


def phase(*opens: Kind, share: float) -> Phase:
    return Phase(opens=opens, share=share)


def drawn(schedule: Shrinking, at: int) -> list[set[int]]:
    """The picks of each choice among many draws."""
    architectures = [a for seed in range(100) for a in schedule.draw(at, random.Random(seed))[1]]
    return [set(picks) for picks in zip(*(a.picks for a in architectures), strict=True)]


def test_phases_begin_by_their_shares() -> None:
    schedule = shrinking(*PHASES)
    assert schedule.first_steps == (0, 30, 50, 75)
    assert [schedule.phase_at(step) for step in (0, 29, 30, 74, 75, 99)] == [0, 0, 1, 2, 3, 3]
    assert schedule.steps_of(1) == (30, 20)
    assert schedule.steps_of(3) == (75, 25)


def test_each_phase_has_a_step_where_they_are_few() -> None:
    assert shrinking(*PHASES, num_steps=4).first_steps == (0, 1, 2, 3)


def test_more_phases_than_steps_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"4 phases do not fit into the 3 steps.*recipe\.epochs"):
        shrinking(*PHASES, num_steps=3)


def test_a_phase_that_opens_nothing_of_the_space_leaves_its_time_to_the_others() -> None:
    schedule = shrinking(*PHASES, choices=WITHOUT_KERNELS, num_steps=80)
    assert [each.opens for each in schedule.phases] == [(), ("depth",), ("width",)]
    assert schedule.first_steps == (0, 30, 55)


def test_smaller_options_are_drawn_once_they_are_open() -> None:
    schedule = shrinking(*PHASES)
    every, last = {0, 1, 2}, {2}
    assert [drawn(schedule, at)[:3] for at in range(4)] == [
        [last, last, last],
        [last, every, last],
        [every, every, last],
        [every, every, every],
    ]


def test_a_kind_that_two_phases_open_is_opened_option_by_option() -> None:
    schedule = shrinking(
        phase(share=0.4), phase("kernel", "depth", "width", share=0.3), phase("width", share=0.3)
    )
    assert [drawn(schedule, at)[2] for at in range(3)] == [{2}, {1, 2}, {0, 1, 2}]


def test_operations_are_drawn_from_the_start_and_shared_by_a_step() -> None:
    schedule = shrinking(*PHASES)
    assert drawn(schedule, 0)[3] == {0, 1}
    for seed in range(20):
        largest, architectures = schedule.draw(3, random.Random(seed))
        assert len(architectures) == 4
        assert {a.picks[3] for a in architectures} == {largest.picks[3]}
        assert largest.picks[:3] == (2, 2, 2)


def test_a_choice_of_one_option_needs_no_phase() -> None:
    choices = (Choice("stage0.depth", (4,)), Choice("stage0.layer0.kernel", (3, 5)))
    schedule = shrinking(phase(share=0.5), phase("kernel", share=0.5), choices=choices)
    assert drawn(schedule, 1) == [{0}, {0, 1}]


def test_shares_that_do_not_sum_to_1_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"the shares 0\.5, 0\.4 sum to 0\.9"):
        shrinking(phase(share=0.5), phase("kernel", "depth", "width", share=0.4))


def test_phases_out_of_order_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"phases\[2\] opens kernel after depth: out of order"):
        shrinking(
            phase(share=0.4), phase("depth", share=0.2), phase("kernel", share=0.2), phase("width", share=0.2)
        )


def test_a_first_phase_that_is_not_the_largest_network_is_refused_where_there_is_a_teacher() -> None:
    everything = phase("kernel", "depth", "width", share=1.0)
    with pytest.raises(ConfigError, match=r"opens: \[\].*strategy\.distillation_weight=0"):
        shrinking(everything)
    assert shrinking(everything, with_teacher=False).first_steps == (0,)


def test_a_later_phase_that_opens_nothing_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"phases\[1\] opens nothing"):
        shrinking(phase(share=0.5), phase(share=0.5))


def test_a_kind_that_is_never_opened_is_refused_with_one_of_its_choices() -> None:
    with pytest.raises(ConfigError, match=r"no phase opens depth.*stage0\.depth"):
        shrinking(phase(share=0.5), phase("kernel", "width", share=0.5))
