"""What a command did: its exit code, what it printed, and settings that keep a fit short."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NoReturn

SMALL = ("--data.limit", "120", "--data.valid-fraction", "0.05")
VAE = ("--model.hidden", "8", "--model.latent_dim", "2", "--model.batch_size", "16")


@dataclass(frozen=True)
class Outcome:
    """An exit code and the two streams."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """What standard output holds, as strict JSON."""
        assert self.code == 0, self
        return json.loads(self.out, parse_constant=_refuse)


Cli = Callable[..., Outcome]


def _refuse(token: str) -> NoReturn:
    raise AssertionError(f"{token} is not JSON")
