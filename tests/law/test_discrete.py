"""Laws of diffusion of symbols, with the exact posterior of a small table in place of the network."""

import itertools
import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import one_hot

from genloom.core.errors import Unsupported
from genloom.core.events import Categorical, Leaf, tensor
from genloom.core.objective import Clock
from genloom.core.randomness import SampleNoise, TrainNoise, generator
from genloom.families.diffusion_discrete import Config, Corruption, Model
from genloom.math.corruption import corrupted, drawn, stepped_back

KINDS, PLACES = 3, 2
EVENT = Leaf((PLACES,), Categorical(KINDS))
TABLE = torch.tensor([[0.3, 0.02, 0.1], [0.05, 0.2, 0.03], [0.1, 0.05, 0.15]]).double()
ALL = torch.tensor(list(itertools.product(range(KINDS), repeat=PLACES)))

both = pytest.mark.parametrize("corruption", ["absorbing", "uniform"])


def exact_model(corruption: Corruption, **settings: Any) -> Model:
    """Return a model that says of each symbol what follows from the table and what is seen."""
    small = {"width": 16, "layers": 1, "heads": 2}
    model = Config.model_validate({"corruption": corruption, **small, **settings}).build(EVENT, None).double()

    def told(x: Tensor, time: Tensor, label: Tensor, scale: float = 1.0) -> Tensor:  # noqa: ARG001
        kept, kinds = (1 - time.double())[:, None, None], len(model.pi)
        same = one_hot(ALL, kinds).double()[None] * one_hot(x, kinds).double()[:, None]
        seen = (kept * same.sum(-1) + (1 - kept) * model.pi.double()[x][:, None]).prod(-1)
        weight = TABLE.flatten() * seen
        weight = weight / weight.sum(1, keepdim=True)
        return torch.einsum("bn,ndk->bdk", weight, one_hot(ALL, kinds).double())

    model.told = told  # type: ignore[method-assign]
    return model


def noise(rows: int, seed: int = 0) -> SampleNoise:
    return SampleNoise(seed, torch.arange(rows))


@both
def test_steps_back_follow_from_bayes(corruption: Corruption) -> None:
    """p(x_s | x_t) summed over pairs, one by one."""
    pi, near, far = exact_model(corruption).pi.double(), 0.7, 0.4
    kinds = len(pi)

    def forward(kept: float) -> Tensor:
        return kept * torch.eye(kinds).double() + (1 - kept) * pi

    told = torch.rand(kinds, kinds, generator=generator(0)).double()
    if corruption == "absorbing":
        told[:, -1] = 0
        told[:-1] = torch.eye(kinds).double()[:-1]
    told = told / told.sum(1, keepdim=True)
    for x in range(kinds):
        expected = torch.zeros(kinds).double()
        for clean in range(kinds):
            if told[x, clean] > 0:
                joint = forward(near)[clean] * forward(far / near)[:, x]
                expected += told[x, clean] * joint / joint.sum()
        ends = torch.tensor([near]), torch.tensor([far])
        found = stepped_back(torch.tensor([[x]]), told[x][None, None], pi, *ends)
        torch.testing.assert_close(found[0, 0], expected, rtol=1e-6, atol=1e-9)


def test_symbols_are_kept_and_drawn_as_often_as_said() -> None:
    rows, source = 20_000, generator(1)
    x, fresh = torch.zeros(rows, 1, dtype=torch.int64), torch.ones(rows, 1, dtype=torch.int64)
    chance = torch.rand(rows, 1, generator=source)
    assert float(corrupted(x, torch.full((rows,), 0.3), fresh, chance).double().mean()) == pytest.approx(
        0.7, abs=0.01
    )
    chances = torch.tensor([0.0, 2.0, 0.0, 6.0]).expand(rows, 1, 4)
    counts = drawn(chances, chance)[:, 0].bincount(minlength=4) / rows
    torch.testing.assert_close(counts, torch.tensor([0, 0.25, 0, 0.75]), atol=0.01, rtol=0)
    assert drawn(chances[:1], torch.zeros(1, 1)).item() == 1


@both
def test_the_bound_is_below_the_truth_and_close_with_many_steps(corruption: Corruption) -> None:
    gaps = []
    for steps in (4, 500):
        model = exact_model(corruption, timesteps=steps, bound_terms=min(steps, 100))
        rows = ALL.repeat_interleave(400, 0)
        scored = tensor(model.log_prob(rows, noise=noise(len(rows))).value).view(len(ALL), -1).mean(1)
        gaps.append(float((TABLE.flatten() * (TABLE.flatten().log() - scored)).sum()))
    assert gaps[0] > 0.02
    assert -0.02 < gaps[1] < 0.03


@both
def test_samples_have_the_table_s_frequencies(corruption: Corruption) -> None:
    rows = 20_000
    x = tensor(exact_model(corruption, sampling_steps=200).sample(noise(rows)))
    counts = (x[:, 0] * KINDS + x[:, 1]).bincount(minlength=9).double()
    statistic = float(((counts - rows * TABLE.flatten()).square() / (rows * TABLE.flatten())).sum())
    assert statistic < 40, "chi-squared of 8 degrees of freedom: 40 at p = 3e-6, and a little for the steps"


def test_what_is_unknown_follows_from_what_is_known() -> None:
    rows = 20_000
    known = torch.tensor([True, False]).expand(rows, -1)
    x = torch.tensor([1, 0]).expand(rows, -1)
    filled = tensor(exact_model("absorbing", sampling_steps=50).infill(x, known, noise(rows)))
    assert (filled[:, 0] == 1).all()
    share = filled[:, 1].bincount(minlength=3).double() / rows
    torch.testing.assert_close(share, TABLE[1] / TABLE[1].sum(), atol=0.02, rtol=0)


def test_replaced_symbols_cannot_be_infilled() -> None:
    with pytest.raises(Unsupported, match="needs masks"):
        exact_model("uniform").infill(ALL, ALL == 0, noise(len(ALL)))


def test_guidance_exaggerates_what_the_label_says() -> None:
    """Log-probabilities at scale g are g times those with the label less g - 1 times those without."""
    model = Config(width=16, layers=1, heads=2).build(EVENT, Leaf((), Categorical(2)))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.5, generator=generator(parameter.numel()))
    x, time, label = torch.full((4, PLACES), KINDS), torch.full((4,), 0.5), torch.arange(4) % 2
    told, without = model.told(x, time, label), model.told(x, time, torch.full((4,), 2))
    expected = (3 * told.clamp_min(1e-30).log() - 2 * without.clamp_min(1e-30).log())[..., :KINDS].softmax(-1)
    torch.testing.assert_close(model.told(x, time, label, 3.0)[..., :KINDS], expected)


def test_labels_are_hidden_in_training_as_often_as_said() -> None:
    config = Config(width=16, layers=1, heads=2, label_dropout=0.5)
    model = config.build(EVENT, Leaf((), Categorical(2)))
    seen = list[Tensor]()
    told = model.told

    def spied(x: Tensor, time: Tensor, label: Tensor, scale: float = 1.0) -> Tensor:
        seen.append(label)
        return told(x, time, label, scale)

    model.told = spied  # type: ignore[method-assign]
    objective = config.stages(model)[0].objective
    assert objective is not None
    loss = objective.phases[0].loss
    assert loss is not None
    rows = 400
    batch = {"x": ALL[torch.arange(rows) % 9], "cond": torch.zeros(rows, dtype=torch.int64)}
    loss(batch, TrainNoise(generator(0), rows, 0, rows), Clock(0, 1))
    assert float((seen[0] == 2).double().mean()) == pytest.approx(0.5, abs=0.1)


def test_a_network_that_knows_nothing_scores_as_even_chances_do() -> None:
    """With masks the bound of a constant guess is exact: each symbol is told once."""
    model = Config(width=16, layers=1, heads=2, timesteps=200, bound_terms=200).build(EVENT, None)
    scored = tensor(model.log_prob(ALL.repeat_interleave(100, 0), noise=noise(900)).value)
    assert float(scored.mean()) == pytest.approx(-PLACES * math.log(KINDS), abs=0.1)
