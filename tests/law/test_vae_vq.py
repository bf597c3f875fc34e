"""The codebook against k-means, the bound against enumeration, and the prior as a model of codes."""

import itertools

import pytest
import torch
from latents import lively, noise
from torch import Tensor

from genloom.core.errors import ConfigError
from genloom.core.events import Binary, Categorical, Leaf
from genloom.core.objective import Clock
from genloom.core.randomness import TrainNoise, generator
from genloom.families.vae_vq import Config, Model
from genloom.nn.quantiser import Quantiser, from_bits, perplexity, to_bits
from genloom.testing import draw
from genloom.train.state import State
from genloom.train.step import Rhythm, train_step
from genloom.train.stream import Order, Stream

IMAGE = Leaf((1, 8, 8), Binary())


def make(event: Leaf, **settings: object) -> Model:
    torch.manual_seed(0)
    given = {"bits": 2, "dim": 3, "channels": 4, "blocks": 1, "halvings": 1, **settings}
    model = Config(**given).build(event, None)  # type: ignore[arg-type]
    assert isinstance(model, Model)
    return model


def test_without_memory_the_codebook_takes_a_step_of_k_means() -> None:
    part = Quantiser(3, 2, decay=0.0, dead=0.0).double()
    z = torch.randn(50, 2, generator=generator("vq"), dtype=torch.float64)
    part.codebook.copy_(z[:3])
    codes = part.nearest(z)
    assert torch.equal(codes, torch.cdist(z, z[:3]).argmin(1))
    part.follow(z, noise(1))
    torch.testing.assert_close(part.codebook, torch.stack([z[codes == k].mean(0) for k in range(3)]))


def test_averages_forget_as_the_decay_says() -> None:
    part = Quantiser(2, 1, decay=0.9, dead=0.0).double()
    part.codebook.copy_(torch.tensor([[-1.0], [1.0]]))
    part.counts.fill_(4.0)
    part.sums.copy_(4 * part.codebook)
    part.follow(torch.tensor([[-2.0], [-3.0], [2.0]]).double(), noise(1))
    expected = torch.tensor([[(-3.6 - 0.5) / (3.6 + 0.2)], [(3.6 + 0.2) / (3.6 + 0.1)]])
    torch.testing.assert_close(part.codebook, expected.double())


def test_dead_codes_start_anew_at_vectors_of_the_batch() -> None:
    part = Quantiser(8, 2, decay=0.99, dead=0.5).double()
    z = torch.randn(40, 2, generator=generator("vq"), dtype=torch.float64)
    part.follow(z, noise(1))
    gaps = (part.codebook[:, None] - z).abs().sum(-1)
    assert float(gaps.min(1).values.max()) < 1e-12


def test_codes_are_numbers_in_binary() -> None:
    codes = torch.arange(64).view(4, 4, 4)
    digits = to_bits(codes, 6)
    assert digits.shape == (4, 6, 4, 4)
    assert set(digits.unique().tolist()) == {0, 1}
    assert torch.equal(from_bits(digits), codes)
    assert float(perplexity(codes, 64)) == pytest.approx(64)
    assert float(perplexity(codes % 2, 64)) == pytest.approx(2)


@pytest.mark.parametrize("prior", ["ar.pixelcnn", "ar.made"])
def test_the_bound_is_one_term_of_the_evidence(prior: str) -> None:
    model = make(Leaf((1, 2, 2), Binary()), prior=prior)
    lively(model)
    model.quantiser.codebook.copy_(torch.randn(4, 3, generator=generator("vq"), dtype=torch.float64))
    x = torch.tensor(list(itertools.product([0, 1], repeat=4))).view(16, 1, 2, 2)
    terms = []
    for code in range(4):
        z = torch.full((16, 1, 1), code)
        log_pz = model.prior.log_prob(model.code_items(z), noise=noise(16)).value  # type: ignore[operator]
        terms.append(log_pz + model.log_likelihood(x, model.quantiser.vectors(z)))
    joint = torch.stack(terms)
    assert float(joint.exp().sum()) == pytest.approx(1)
    own = joint.gather(0, model.encode(x).view(1, 16))[0]
    scored = model.log_prob(x, noise=noise(16)).value
    torch.testing.assert_close(scored, own)
    assert bool((scored < joint.logsumexp(0)).all())


def test_gradients_pass_straight_through_the_codebook() -> None:
    model = make(IMAGE)
    x = draw(IMAGE, 4)
    assert isinstance(x, Tensor)
    stage = Config(bits=2, commitment=0.0).stages(model)[0]  # type: ignore[call-arg]
    assert stage.objective is not None
    loss = stage.objective.phases[1].loss
    assert loss is not None
    loss({"x": x}, TrainNoise(generator("x"), 4, 0, 4), Clock(1, 2)).total.backward()
    found = {n: p.grad.clone() for n, p in model.encoder.named_parameters() if p.grad is not None}
    model.zero_grad()
    z = model.vectors(x)
    nearest = model.quantiser.vectors(model.quantiser.nearest(z)).requires_grad_()
    (direct,) = torch.autograd.grad(-model.log_likelihood(x, nearest).mean(), nearest)
    z.backward(direct)
    for name, p in model.encoder.named_parameters():
        torch.testing.assert_close(p.grad, found[name])


def test_the_second_stage_trains_the_prior_on_codes_and_nothing_else() -> None:
    config = Config(bits=2, dim=3, channels=4, blocks=1, halvings=1)  # type: ignore[call-arg]
    model = make(IMAGE)
    stage = config.stages(model)[1]
    assert stage.objective is not None
    assert (stage.name, stage.budget_share) == ("prior-fit", 0.5)
    x = draw(IMAGE, 16)
    before = {n: w.clone() for n, w in model.state_dict().items()}
    rhythm = Rhythm(Stream(x, None, lambda v, _: v), Order(16, "vq"), 0, stage.name, 10, 8)
    state = State.fresh(model, stage.objective)
    figures = [train_step(state, rhythm) for _ in range(3)][-1]
    assert figures["likelihood/nll"] > 0
    moved = {n for n, w in model.state_dict().items() if not torch.equal(w, before[n])}
    assert moved
    assert all(name.startswith("prior.") for name in moved)


def test_priors_that_cannot_serve_are_refused() -> None:
    for prior, why in (
        ("gan.wgan_gp", "no likelihood"),
        ("vae.gausian", "did you mean"),
        ("flow.nsf", "takes neither"),
        ({"family": "ar.made", "settings": {"hiden": 3}}, "ar.made: "),
    ):
        with pytest.raises(ConfigError, match=why):
            make(IMAGE, prior=prior)
    with pytest.raises(ConfigError, match="takes no condition"):
        Config(prior="baseline.chow_liu").build(IMAGE, Leaf((), Categorical(3)))  # type: ignore[call-arg, arg-type]
    config = Config(prior="baseline.chow_liu", halvings=1)  # type: ignore[call-arg, arg-type]
    with pytest.raises(ConfigError, match="not trained by gradients"):
        config.stages(config.build(IMAGE, None))
