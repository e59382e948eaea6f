"""What a run saved last, for tests to look at."""

from pathlib import Path
from typing import cast

from torch import Tensor

from nas_cli.run import Run


def saved_state(folder: Path) -> dict[str, object]:
    state = Run.open(folder).load_checkpoint()
    assert state is not None
    return state


def saved_weights(folder: Path, name: str) -> dict[str, Tensor]:
    """Those of the `supernet` of a search or the `network` of a retraining."""
    work = cast(dict[str, object], saved_state(folder)["work"])
    return cast(dict[str, Tensor], work[name])
