"""Settings of the training engine, the same for every family."""

import re
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0}


def seconds(value: Any) -> Any:
    """Turn ``90``, ``90s``, ``10m`` or ``1.5h`` into seconds."""
    if isinstance(value, str):
        match = re.fullmatch(r"\s*([0-9]*\.?[0-9]+)\s*([smh]?)\s*", value)
        if not match:
            raise ValueError(f"{value!r} is not a time such as 90s, 10m or 1.5h")
        return float(match[1]) * _UNITS[match[2] or "s"]
    return value


Seconds = Annotated[float, BeforeValidator(seconds), Field(gt=0, le=366 * 86400)]


class TrainConfig(BaseModel):
    """How long and how to train. One of ``steps``, ``budget`` and ``flops`` sets the length."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    steps: int | None = Field(None, ge=1, description="number of training steps")
    budget: Seconds | None = Field(None, description="wall-clock time, such as 90s or 10m")
    flops: float | None = Field(None, gt=0, description="training floating-point operations")
    batch_size: int | None = Field(None, ge=1, description="rows a step; the family's own if absent")
    accumulate: int = Field(1, ge=1, description="micro-batches a batch is split into")
    precision: Literal["auto", "fp32", "bf16"] = Field("auto", description="auto: bf16 where it is faster")
    compile: bool = Field(False, description="compile the networks with torch.compile")
    checkpoint_every: int | None = Field(None, ge=1, description="steps between checkpoints")
    validate_every: int | None = Field(None, ge=1, description="steps between validations")
    refit: bool = Field(
        False, description="train on the validation items as well, once all settings are chosen by them"
    )
    snapshots: bool = Field(
        False, description="keep averages of the weights on the way, to choose their length afterwards"
    )
    tensorboard: bool = Field(False, description="also write TensorBoard events")

    @model_validator(mode="after")
    def _one_length(self) -> Self:
        given = [n for n in ("steps", "budget", "flops") if getattr(self, n) is not None]
        if len(given) > 1:
            raise ValueError(f"give only one of {' and '.join(given)}")
        return self

    def lasting(self, default: float) -> "TrainConfig":
        """Return these settings with a wall-clock budget of ``default`` seconds if they set no length."""
        if self.steps is self.budget is self.flops is None:
            return self.model_copy(update={"budget": default})
        return self
