"""The network around the cells, and what of it reads which cell."""

import torch
from torch import Tensor

from nas_cli.layers.skeleton import Skeleton, Step
from nas_cli.seeds import seeded
from tests.spaces.images import image_info, images_of


def skeleton() -> Skeleton:
    with seeded(0, "skeleton"):
        joined = {"normal": 3, "reduction": 2}
        return Skeleton(image_info(), channels=4, num_cells=4, num_joined=joined, affine=False)


def test_a_cell_reads_as_many_channels_as_the_cells_before_it_join() -> None:
    places = skeleton().places
    # A normal, two reductions (at one and at two thirds), a normal; the stem gives three times 4 channels.
    assert [place.channels for place in places] == [4, 8, 16, 16]
    assert [place.out_channels for place in places] == [3 * 4, 2 * 8, 2 * 16, 3 * 16]
    assert [place.in_channels for place in places] == [(12, 12), (12, 12), (12, 16), (16, 32)]


def test_a_narrowed_skeleton_is_the_whole_one_where_the_other_states_are_zero() -> None:
    whole = skeleton()
    narrow = whole.narrowed({"normal": [2, 0], "reduction": [1]})
    kinds, images = [place.kind for place in whole.places], images_of(image_info())
    with torch.no_grad():
        expected, _ = whole(images, [_step(kind, fill=True) for kind in kinds])
        actual, _ = narrow(images, [_step(kind, fill=False) for kind in kinds])
    torch.testing.assert_close(actual, expected, atol=1e-5, rtol=0)
    assert [place.in_channels for place in narrow.places] == [(12, 12), (12, 8), (8, 8), (8, 16)]


def _step(kind: str, *, fill: bool) -> Step:
    """Joins two states of a normal cell and one of a reduction cell, in the places that are kept."""

    def step(inputs: list[Tensor]) -> list[Tensor]:
        first, second = inputs
        if kind == "reduction":
            first, second = first[:, :, ::2, ::2], second[:, :, ::2, ::2]
            return [torch.zeros_like(first), first - second] if fill else [first - second]
        return [second, torch.zeros_like(first), first] if fill else [first, second]

    return step


def test_a_narrowed_skeleton_leaves_the_whole_one_as_it_is() -> None:
    whole = skeleton()
    before = {name: tensor.clone() for name, tensor in whole.state_dict().items()}
    narrow = whole.narrowed({"normal": [0], "reduction": [0]})
    after = whole.state_dict()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    kept = {tensor.data_ptr() for tensor in after.values()}
    assert not kept & {tensor.data_ptr() for tensor in narrow.state_dict().values()}
