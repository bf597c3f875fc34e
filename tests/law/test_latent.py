"""Latent diffusion: its score is a density of items, and repairs keep what is known."""

import itertools

import pytest
import torch

from genloom.core.events import Binary, Categorical, Leaf, Length, Padded
from genloom.core.randomness import SampleNoise
from genloom.families.diffusion_latent import Config, Model

PIXELS = Leaf((1, 2, 2), Binary())
TINY = {"latent_channels": 1, "channels": 8, "blocks": 1, "widths": (16,), "depths": (1,), "embedding": 16}
DRAWS = 200


def build(leaf: Leaf, **settings: object) -> Model:
    torch.manual_seed(0)
    model = Config(**{**TINY, **settings}).build(leaf, None)
    assert isinstance(model, Model)
    return model.double().eval()


def test_importance_weights_of_all_items_sum_to_one() -> None:
    model = build(PIXELS, likelihood="ode", tolerance=1e-3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    every = torch.tensor(list(itertools.product((0, 1), repeat=4))).view(-1, 1, 2, 2)
    rows = every.repeat_interleave(DRAWS, 0)
    found = model.log_prob(rows, noise=SampleNoise(0, torch.arange(len(rows))))
    weights = found.value.detach().view(16, DRAWS)
    assert abs(float(weights.exp().mean(1).sum()) - 1) < 0.03


@pytest.mark.parametrize(("halvings", "blocks"), [(1, 1), (2, 0)])
def test_known_codes_do_not_depend_on_hidden_pixels(halvings: int, blocks: int) -> None:
    model = build(Leaf((1, 30, 28), Binary()), halvings=halvings, blocks=blocks)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    known = torch.ones(1, 1, 30, 28, dtype=torch.bool)
    known[..., 12:17, 20:] = False
    x = torch.randint(2, (1, 1, 30, 28))
    before, after = model.encode(x), model.encode(torch.where(known, x, 1 - x))
    same = (before == after).all(1, keepdim=True)
    found = model._known_codes(known)
    assert bool(same[found].all())
    assert not bool(same.all())
    assert 0.3 < float(found.double().mean()) < 1


def test_what_follows_a_text_has_no_effect() -> None:
    torch.manual_seed(0)
    text, leaf = Leaf((Length(6),), Categorical(5)), Leaf((1, 8, 8), Categorical(5, ordered=True))
    model = Config(**{**TINY, "network": "dit", "dit_width": 32, "dit_heads": 2, "dit_layers": 2}).build(
        leaf, text
    )
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    x = torch.randint(5, (3, 1, 8, 8))
    values = torch.randint(5, (3, 6))
    lengths = torch.tensor([2, 6, 0])

    def scored(values: torch.Tensor) -> torch.Tensor:
        noise = SampleNoise(0, torch.arange(3))
        return model.eval().log_prob(x, Padded(values, lengths), noise=noise).value

    after = torch.arange(6) >= lengths[:, None]
    changed = torch.where(after, (values + 1) % 5, values)
    assert torch.equal(scored(values), scored(changed))
    assert not torch.equal(scored(values)[:2], scored((values + 1) % 5)[:2])
    turned = values.clone()
    turned[1] = values[1].flip(0)
    assert not torch.equal(scored(values)[1], scored(turned)[1])
