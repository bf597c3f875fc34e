"""What every test shares: one thread, a cache of its own, and a feature classifier that is quick to train."""

import signal
from collections.abc import Iterator

import pytest
import torch

from genloom.recipes import features

torch.set_num_threads(1)
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as a background job of a shell starts
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True, scope="session")
def own_world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        patch.setenv("OMP_NUM_THREADS", "1")
        patch.setattr(features, "STEPS", {"small": 30, "large": 30})
        yield
