"""The variational autoencoder of sequences: its bound, its blind decoder, its classes, and a code in use."""

import math

import pytest
import torch
from symbols import VARYING, everything, listed
from torch import Tensor, nn

from genloom.core.events import Categorical, Leaf, Length, Padded, take
from genloom.core.randomness import SampleNoise
from genloom.families.seq_vae import Config, SequenceVAE
from genloom.train.state import State
from genloom.train.step import Rhythm, train_step
from genloom.train.stream import Order, Stream


def make(classes: int = 0, **settings: object) -> SequenceVAE:
    """Return an untrained model in float64 whose every weight matters."""
    torch.manual_seed(0)
    config = Config(latent_dim=1, units=12, embedding=6, **settings)  # type: ignore[arg-type]
    model = config.build(VARYING, Leaf((), Categorical(classes)) if classes else None)
    for weight in model.parameters():
        nn.init.normal_(weight, std=0.4)
    return model.double().eval()


def evidence(model: SequenceVAE, x: Padded) -> Tensor:
    """Return log p(x) by a sum over a fine grid of codes of one dimension."""
    grid = torch.linspace(-8, 8, 401, dtype=torch.float64)
    parts = []
    for code in grid:
        z = code.expand(len(x.lengths), 1)
        parts.append(model.log_likelihood(x, z) + model.log_prior(z))
    return torch.stack(parts).logsumexp(0) + math.log(16 / 400)


@torch.no_grad()
def test_the_bound_is_below_the_evidence_and_meets_it_with_many_samples() -> None:
    x = everything(VARYING)
    assert isinstance(x, Padded)
    few, noise = make(importance_samples=1), SampleNoise(0, torch.arange(len(x.lengths)))
    truth = evidence(few, x)
    assert float(truth.logsumexp(0)) == pytest.approx(0.0, abs=1e-6)
    one = torch.stack([few.log_prob(x, noise=noise).value for _ in range(400)]).mean(0)
    assert bool((one < truth + 0.05).all())
    many = make(importance_samples=400).log_prob(x, noise=noise).value
    assert float((many - truth).abs().mean()) < 0.05
    assert float((truth - one).mean()) > float((truth - many).abs().mean())


@torch.no_grad()
@pytest.mark.parametrize("share", [0.2, 1.0])
def test_a_decoder_without_inputs_sees_the_code_alone(share: float) -> None:
    model = make(symbol_dropout=share)
    decoder, z = model.spelling.network, torch.ones(1, 1).double()
    symbols = torch.zeros(1, 4, dtype=torch.int64)
    same = torch.equal(decoder(symbols, None, z), decoder(symbols + 1, None, z))
    assert same == (share == 1)
    assert not torch.equal(decoder(symbols, None, z), decoder(symbols, None, -z))


@torch.no_grad()
def test_samples_follow_the_model() -> None:
    """How often each text is drawn fits the evidence: a chi-squared test over texts of up to two symbols."""
    model, count = make(), 6000
    found = listed(model.sample(SampleNoise(1, torch.arange(count))))  # type: ignore[arg-type]
    x = everything(VARYING)
    assert isinstance(x, Padded)
    short = take(x, x.lengths <= 2)
    assert isinstance(short, Padded)
    expected = evidence(model, short).exp() * count
    drawn = torch.tensor([float(found.count(text)) for text in listed(short)])
    statistic = float(((drawn - expected) ** 2 / expected).sum())
    assert statistic < 13 + 5 * math.sqrt(2 * 13)


@torch.no_grad()
def test_a_code_says_what_a_class_does_not() -> None:
    model, noise = make(classes=3), SampleNoise(0, torch.arange(6))
    labels = torch.tensor([0, 0, 1, 1, 2, 2])
    assert torch.equal(
        model.draw_code(noise, labels), model.draw_code(SampleNoise(0, torch.arange(6)), labels + 1)
    )
    z = torch.linspace(-1, 1, 6, dtype=torch.float64)[:, None]
    x = take(everything(VARYING), torch.arange(20, 26))
    first, second = (model.log_likelihood(x, z, labels + shift) for shift in (0, 1))
    assert not torch.allclose(first, second)


def test_the_code_is_used() -> None:
    """On four texts that share no symbol at any place a code of two dimensions says which it is."""
    texts = torch.tensor([[i] * 8 for i in range(4)])
    x = Padded(texts.repeat(64, 1), torch.full((256,), 8))
    torch.manual_seed(0)
    settings = {"latent_dim": 2, "units": 32, "embedding": 8, "free_bits": 0.5, "dropout": 0.0, "lr": 1e-2}
    config = Config(symbol_dropout=1.0, **settings)
    model = config.build(Leaf((Length(8),), Categorical(4)), None)
    (stage,) = config.stages(model)
    assert stage.objective is not None
    state = State.fresh(model, stage.objective)
    rhythm = Rhythm(Stream(x, None, lambda v, _: v), Order(256, 0), 0, "vae", 250, 64)
    for _ in range(250):
        figures = train_step(state, rhythm)
    assert figures["elbo/rate"] > 1.0
    assert figures["elbo/active_units"] >= 1
    model.eval()
    with torch.no_grad():
        first = take(x, slice(0, 4))
        assert isinstance(first, Padded)
        back = model.decode(model.encode(first))
    assert isinstance(back, Padded)
    assert torch.equal(back.values, first.values)


@torch.no_grad()
def test_what_is_inferred_makes_up_the_bound() -> None:
    x, model = everything(VARYING), make(importance_samples=1)
    assert isinstance(x, Padded)
    rows = torch.arange(len(x.lengths))
    z, log_q = model.infer(x, SampleNoise(0, rows))
    bound = model.log_likelihood(x, z) + model.log_prior(z) - log_q
    torch.testing.assert_close(bound, model.log_prob(x, noise=SampleNoise(0, rows)).value)
