import pytest
import torch

from nas_cli.data import Augmentation, Batch
from nas_cli.errors import ConfigError
from nas_cli.recipe import Recipe
from tests.toy import INFO


def test_the_learning_rate_falls_along_a_cosine_from_start_to_end() -> None:
    recipe = Recipe(learning_rate=0.1, final_learning_rate=0.02)
    rates = [recipe.learning_rate_at(step, 10, 100) for step in (0, 50, 100)]
    assert rates == pytest.approx([0.1, 0.06, 0.02])


def test_the_learning_rate_rises_over_the_warm_up_epochs() -> None:
    recipe = Recipe(learning_rate=0.5, warmup_epochs=1)
    rates = [recipe.learning_rate_at(step, 4, 40) for step in range(5)]
    assert rates == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.5])


def test_images_are_mirrored_only_where_that_keeps_their_class() -> None:
    fixed = INFO.__class__(1, 32, ("6", "9"), (0.5,), (0.25,), mirror=False)
    assert Recipe().augmentation(fixed) == Augmentation(shift=4, mirror=False, cutout=0)
    assert Recipe(shift=1, cutout=3).augmentation(INFO) == Augmentation(shift=1, mirror=True, cutout=3)


@pytest.mark.parametrize("settings", [{"mixup": 1.0}, {"cutmix": 1.0}, {"mixup": 0.2, "cutmix": 1.0}])
def test_mixed_labels_are_shares_that_depend_on_the_step_alone(settings: dict[str, float]) -> None:
    recipe = Recipe(**settings)  # type: ignore[arg-type]
    batch = Batch(torch.rand(8, 1, 8, 8, generator=torch.Generator().manual_seed(0)), torch.arange(8) % 2)
    first, again, other = (recipe.mix(batch, 2, seed=0, step=step) for step in (3, 3, 4))
    assert first.labels.shape == (8, 2)
    assert torch.allclose(first.labels.sum(1), torch.ones(8))
    assert torch.equal(first.images, again.images)
    assert not torch.equal(first.images, other.images)


def test_mixing_leaves_the_global_generator_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    Recipe(cutmix=1.0).mix(Batch(torch.rand(0, 1, 8, 8), torch.zeros(0).long()), 2, seed=0, step=0)
    Recipe(mixup=1.0).mix(Batch(torch.ones(4, 1, 8, 8), torch.zeros(4).long()), 2, seed=0, step=0)
    assert torch.equal(torch.rand(3), expected)


def test_a_schedule_that_would_rise_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"final_learning_rate=0.2 is above recipe.learning_rate=0.1"):
        Recipe(learning_rate=0.1, final_learning_rate=0.2)


def test_nesterov_needs_momentum() -> None:
    with pytest.raises(ConfigError, match="nesterov"):
        Recipe(nesterov=True, momentum=0.0)


def test_the_cosine_begins_where_the_warm_up_ends() -> None:
    recipe = Recipe(learning_rate=0.1, final_learning_rate=0.02, warmup_epochs=2)
    rates = [recipe.learning_rate_at(step, 10, 120) for step in (20, 70, 120)]
    assert rates == pytest.approx([0.1, 0.06, 0.02])


def test_without_mixing_a_batch_is_left_as_it_is() -> None:
    batch = Batch(torch.ones(4, 1, 8, 8), torch.zeros(4).long())
    assert Recipe().mix(batch, 2, seed=0, step=0) is batch


def test_classes_and_their_shares_have_the_same_loss() -> None:
    logits, labels = torch.tensor([[2.0, 0.0], [1.0, 3.0]]), torch.tensor([0, 1])
    recipe = Recipe(label_smoothing=0.1)
    assert float(recipe.loss(logits, labels)) == pytest.approx(float(recipe.loss(logits, torch.eye(2))))


def test_label_smoothing_gives_a_share_of_the_label_to_all_classes() -> None:
    logits, label = torch.tensor([[2.0, 0.0]]), torch.tensor([0])
    right, wrong = (-logits.log_softmax(1)[0]).tolist()
    assert float(Recipe(label_smoothing=0.1).loss(logits, label)) == pytest.approx(
        0.95 * right + 0.05 * wrong
    )


@pytest.mark.parametrize(("batch_size", "accumulate"), [(16, 3), (4, 4)])
def test_a_batch_without_that_many_equal_parts_is_refused(batch_size: int, accumulate: int) -> None:
    with pytest.raises(ConfigError, match=f"recipe.accumulate={accumulate}: recipe.batch_size={batch_size}"):
        Recipe(batch_size=batch_size, accumulate=accumulate)
