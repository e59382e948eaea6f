"""Drop path drops whole images of an edge, in training alone."""

import torch
from torch import nn

from nas_cli.layers.drop_path import DropPath, set_drop_path


def test_setting_it_reaches_every_one_and_counts_them() -> None:
    network = nn.Sequential(DropPath(), nn.Sequential(DropPath(), nn.Identity()))
    assert set_drop_path(network, 0.3, None) == 2
    assert [module.rate for module in network.modules() if isinstance(module, DropPath)] == [0.3, 0.3]


def test_an_image_is_dropped_or_scaled_as_a_whole() -> None:
    drop_path = DropPath()
    set_drop_path(drop_path, 0.75, torch.Generator().manual_seed(0))
    dropped = drop_path(torch.ones(64, 2, 3, 3)).flatten(1)
    assert set(dropped.unique().tolist()) == {0.0, 4.0}
    assert (dropped == dropped[:, :1]).all()


def test_the_same_stream_drops_the_same_images() -> None:
    x, results = torch.ones(32, 1, 1, 1), []
    for _ in range(2):
        drop_path = DropPath()
        set_drop_path(drop_path, 0.5, torch.Generator().manual_seed(7))
        results.append(drop_path(x))
    assert torch.equal(*results)


def test_nothing_is_dropped_in_evaluation_mode_or_at_rate_zero() -> None:
    drop_path, x = DropPath(), torch.ones(8, 1, 2, 2)
    assert drop_path(x) is x
    set_drop_path(drop_path, 0.5, None)
    assert drop_path.eval()(x) is x
