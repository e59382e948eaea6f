"""One seed a run, one stream of random numbers a purpose.

Nothing draws from torch's global generator during a search: each purpose (the order of the images of
epoch 3, the augmentation of step 17) has a stream of its own, made from the run's seed and the
purpose's name. So what one part draws never moves what another part sees, and a resumed run
continues from its step number alone.
"""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch


def seed_for(seed: int, *purpose: str | int) -> int:
    """A seed in [0, 2**63) that depends on the run's seed and on each word of the purpose."""
    text = "/".join(str(word) for word in (seed, *purpose))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def stream(seed: int, *purpose: str | int, device: torch.device | str = "cpu") -> torch.Generator:
    """A generator of its own for one purpose."""
    return torch.Generator(device=device).manual_seed(seed_for(seed, *purpose))


@contextmanager
def seeded(seed: int, *purpose: str | int) -> Iterator[None]:
    """Initialise modules from a stream: torch's initialisers know the global generator only."""
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(seed_for(seed, *purpose))
        yield
