"""Compilation reaches what a model calls, not the containers around it."""

import pytest
import torch
from torch import nn

from genloom.core.errors import ConfigError
from genloom.recipes.stages import compile_parts


class Nested(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Linear(2, 2)
        self.many = nn.ModuleList([nn.Linear(2, 2), nn.ModuleList([nn.Linear(2, 2)])])


def test_parts_of_containers_are_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[nn.Module] = []

    def note(module: nn.Module) -> None:
        compiled.append(module)

    monkeypatch.setattr(nn.Module, "compile", note)
    model = Nested()
    compile_parts(model)
    assert compiled == [model.one, model.many[0], model.many[1][0]]


def test_a_model_without_networks_is_refused() -> None:
    bare = nn.Module()
    bare.weight = nn.Parameter(torch.zeros(1))
    with pytest.raises(ConfigError, match="leave --compile out"):
        compile_parts(bare)


def test_a_machine_without_a_compiler_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(ConfigError, match="takes no-such-compiler, which is not here"):
        compile_parts(Nested())
