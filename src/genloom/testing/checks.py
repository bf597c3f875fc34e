"""The checks. Each takes a family's subject and raises ``AssertionError`` where a promise is broken."""

import copy
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from pydantic import ValidationError
from safetensors.torch import load, save
from torch import Tensor, nn

from genloom.core.capabilities import (
    Aligner,
    ClosedForm,
    Denoiser,
    Energy,
    Infill,
    Invertible,
    Latent,
    LatentVariable,
    Likelihood,
    Redrawer,
    Restorer,
    Reversible,
    Sampler,
    Steerable,
    need,
)
from genloom.core.errors import DataError, GenloomError
from genloom.core.events import Leaf, Padded, Value, rows, stack, take, tensor
from genloom.core.likelihood import Bound, LogProb
from genloom.core.objective import Clock, Phase
from genloom.core.randomness import SampleNoise, TrainNoise, generator
from genloom.math.inverse import masked
from genloom.testing.subject import (
    BATCH,
    CLASSES,
    ROWS,
    SAMPLES,
    Case,
    Subject,
    as_capability,
    objectives,
    rhythm,
    row_noise,
    sampler,
)
from genloom.testing.values import REFUSABLE, require, require_legal
from genloom.train.state import State
from genloom.train.step import train_step

FEW = 6
"""Items scored in one call."""


def each_case(check: Callable[[Case], None]) -> Callable[[Subject], None]:
    """Turn a check of one case into a check of all, with the case in the message of a failure."""

    def run(subject: Subject) -> None:
        for case in subject.cases:
            with naming(str(case)):
                check(case)

    run.__doc__ = check.__doc__
    return run


@contextmanager
def naming(where: str) -> Iterator[None]:
    """Put ``where`` before the text of whatever is raised, as an ``AssertionError``."""
    try:
        yield
    except AssertionError as error:
        raise AssertionError(f"{where}: {error}") from error
    except Exception as error:
        text = " ".join(str(error).split())
        raise AssertionError(f"{where}: {type(error).__name__}: {text}") from error


def equal(a: Value, b: Value) -> bool:
    """Tell whether two values agree in every tensor."""
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return torch.equal(a, b)
    if isinstance(a, Padded) and isinstance(b, Padded):
        return torch.equal(a.values, b.values) and torch.equal(a.lengths, b.lengths)
    assert not isinstance(a, Tensor | Padded)
    assert not isinstance(b, Tensor | Padded)
    return all(equal(a[name], b[name]) for name in a)


def doubled(x: Value) -> Value:
    """Return floating-point tensors in float64, and anything else unchanged."""
    return x.double() if isinstance(x, Tensor) and x.is_floating_point() else x


@torch.no_grad()
def score(model: nn.Module, x: Value, cond: Value | None) -> LogProb:
    """Return log p(x | cond), always with the same noise."""
    return need(model, Likelihood, "log_prob").log_prob(x, cond, noise=row_noise(rows(x)))


def card_is_sane(subject: Subject) -> None:
    """The card names the family, says what it is, and cites a paper."""
    card = subject.family.card
    require(card.name == subject.name, f"the card is called {card.name!r}, the registry row {subject.name!r}")
    for text in ("title", "summary", "events", "references", "good_at", "bad_at"):
        require(bool(getattr(card, text)), f"the card has no {text}")
    for reference in card.references:
        require(bool(reference.where), f"{reference.title} has no address")
    scored = subject.offers(Likelihood)
    require(
        scored == (card.likelihood is not None),
        "the card names a likelihood that models do not have, or none",
    )


def config_is_closed(subject: Subject) -> None:
    """The configuration is frozen, refuses unknown keys, and survives JSON."""
    for case in subject.cases:
        config = case.config
        again = type(config)(**json.loads(config.model_dump_json()))
        require(again == config, f"{case}: the preset is not the same after a round trip through JSON")
        name = next(iter(type(config).model_fields), None)
        if name is not None:
            require(refuses(setattr, config, name, getattr(config, name)), "the configuration is not frozen")
        accepts = not refuses(type(config), **{**config.model_dump(), "no_such_setting": 1})
        require(not accepts, "the configuration accepts unknown keys")


def refuses(call: Callable[..., Any], *args: Any, **kwargs: Any) -> bool:
    """Tell whether a call raises pydantic's ``ValidationError``."""
    try:
        call(*args, **kwargs)
    except ValidationError:
        return True
    return False


def samples_are_legal(case: Case) -> None:
    """Samples have the event's shape and dtype, and legal values."""
    require_legal(case.event, case.samples, SAMPLES)


def samples_do_not_depend_on_how_many(case: Case) -> None:
    """The first samples are the same, bit for bit, however many are drawn; only the noise is random."""
    torch.manual_seed(2)
    few = case.sample(3)
    require(equal(few, take(case.samples, slice(0, 3))), "sample i changes with the number of samples")


def samples_do_not_see_each_other(case: Case) -> None:
    """A sample is the same, bit for bit, whatever rows it is drawn with."""
    near, far = torch.arange(BATCH), torch.arange(BATCH)
    far[3:] += 1000
    given = case.given(BATCH)
    others = None if given is None else take(given, torch.tensor([0, 1, 2, *[0] * (BATCH - 3)]))
    with torch.no_grad():
        a = sampler(case).sample(SampleNoise(0, near), given)
        b = sampler(case).sample(SampleNoise(0, far), others)
    first = slice(0, 3)
    require(equal(take(a, first), take(b, first)), "a sample depends on the other rows of its batch")


def infilling_keeps_what_is_known(case: Case) -> None:
    """Items are completed legally, keep what is known, and see neither each other nor what is not known."""
    if isinstance(case.data, Padded):
        return infilling_keeps_sequences(case)
    x, others, labels = tensor(case.items(BATCH)), tensor(case.held_out)[:BATCH], case.given(BATCH)
    known = torch.rand(x.shape, generator=generator("testing")) < 0.5
    completer = as_capability(case, Infill)

    def infill(x: Tensor) -> Tensor:
        with torch.no_grad():
            return tensor(completer.infill(x, known, row_noise(BATCH), labels))

    filled = infill(x)
    require_legal(case.event, filled, BATCH)
    require(torch.equal(filled[known], x[known]), "a known value is not kept")
    require(torch.equal(infill(torch.where(known, x, others)), filled), "unknown places have an effect")
    beside = infill(torch.cat([x[:3], others[3:]]))
    require(torch.equal(beside[:3], filled[:3]), "an item depends on the others of its batch")


def infilling_keeps_sequences(case: Case) -> None:
    """Sequences are completed legally and keep every known symbol, with an end no earlier."""
    x = case.items(BATCH)
    assert isinstance(x, Padded)
    there = torch.arange(x.values.shape[1]) < x.lengths[:, None]
    known = there & (torch.rand(there.shape, generator=generator("testing")) < 0.5)
    with torch.no_grad():
        filled = as_capability(case, Infill).infill(x, known, row_noise(BATCH), case.given(BATCH))
    require_legal(case.event, filled, BATCH)
    assert isinstance(filled, Padded)
    kept = torch.arange(known.shape[1]) < filled.lengths[:, None]
    require(bool((kept | ~known).all()), "an item ends before a known symbol")
    require(torch.equal(filled.values[known], x.values[known]), "a known symbol is not kept")


def restoring_agrees(case: Case) -> None:
    """Items are restored legally, agree with what was known, and do not see each other."""
    x, others, labels = tensor(case.items(BATCH)), tensor(case.held_out)[:BATCH], case.given(BATCH)
    known = torch.rand(x.shape, generator=generator("testing")) < 0.5
    restorer = as_capability(case, Restorer)

    def restore(x: Tensor) -> Tensor:
        with torch.no_grad():
            return tensor(restorer.restore(masked(known), x.where(known, 0), row_noise(BATCH), labels))

    restored = restore(x)
    require_legal(case.event, restored, BATCH)
    require(torch.allclose(restored[known], x[known], atol=1e-4), "a known value is not kept")
    beside = restore(torch.cat([x[:3], others[3:]]))
    require(torch.equal(beside[:3], restored[:3]), "an item depends on the others of its batch")


def redrawing_keeps_some(case: Case) -> None:
    """Items are redrawn legally, less like themselves the more they are, and do not see each other.

    A model whose codes lose something is compared with what is left of items after coding.
    """
    x, others, labels = tensor(case.items(BATCH)), tensor(case.held_out)[:BATCH], case.given(BATCH)
    redrawer = as_capability(case, Redrawer)

    lossy = isinstance(redrawer, Latent) and not isinstance(redrawer, Reversible)

    def redraw(x: Tensor, strength: float) -> Tensor:
        with torch.no_grad():
            return tensor(redrawer.redraw(x, strength, row_noise(BATCH), labels))

    little, much = redraw(x, 0.05), redraw(x, 1.0)
    for redrawn in (little, much):
        require_legal(case.event, redrawn, BATCH)
    aim = tensor(case.shown_again(BATCH)) if lossy else x
    gaps = [float((redrawn - aim).double().square().mean()) for redrawn in (little, much)]
    less = gaps[0] < gaps[1] or (lossy and gaps == [0, 0])
    require(less, "redrawn at little strength, items change as much as at full")
    beside = redraw(torch.cat([x[:3], others[3:]]), 0.05)
    require(torch.equal(beside[:3], little[:3]), "an item depends on the others of its batch")


def steering_follows_the_reward(case: Case) -> None:
    """Samples are legal, as ever where the reward is even, else other ones, and do not see each other."""
    near, far = torch.arange(BATCH), torch.arange(BATCH)
    far[3:] += 1000
    steerable, labels = as_capability(case, Steerable), case.given(BATCH)

    def draw(scale: float, index: Tensor) -> Tensor:
        with torch.no_grad():
            reward = partial(_summed, scale=scale)
            return tensor(steerable.sample_towards(reward, SampleNoise(0, index), labels))

    with torch.no_grad():
        free = tensor(sampler(case).sample(SampleNoise(0, near), labels))
    steered = draw(0.01, near)
    require_legal(case.event, steered, BATCH)
    require(torch.allclose(draw(0.0, near), free, atol=1e-4), "an even reward changes samples")
    require(not torch.allclose(steered, free, atol=1e-6), "a reward has no effect")
    require(torch.equal(draw(0.01, far)[:3], steered[:3]), "a sample depends on the other rows of its batch")


def _summed(x: Tensor, scale: float) -> Tensor:
    return scale * x.flatten(1).sum(1)


def likelihood_keeps_its_word(case: Case) -> None:
    """Scores are finite, (B,), of the card's kind, and a function of the item, its label and its noise."""
    x, cond = case.items(FEW), case.given(FEW)
    scored = score(case.model, x, cond)
    require_scores(scored, case.family.card.likelihood, FEW)
    torch.manual_seed(3)
    again = score(case.model, x, cond)
    require(torch.equal(again.value, scored.value), "the same items and noise give other scores")
    swapped = stack([take(x, slice(0, 3)), take(case.data, slice(ROWS - 3, ROWS))])
    beside = score(case.model, swapped, cond)
    require(torch.equal(beside.value[:3], scored.value[:3]), "a score depends on the other rows of its batch")


def require_scores(scored: LogProb, kind: Bound | None, count: int) -> None:
    """Raise ``AssertionError`` unless the scores are finite, (B,), and of a kind."""
    value = scored.value
    require(tuple(value.shape) == (count,), f"the shape of log_prob is {tuple(value.shape)}, not ({count},)")
    require(value.is_floating_point() and bool(value.isfinite().all()), "some scores are not finite")
    require(scored.kind is kind, f"log_prob returns {scored.kind}, the card says {kind}")
    if kind is Bound.ESTIMATE:
        require(scored.stderr is not None, "an estimate must come with its standard error")
    if scored.stderr is not None:
        require(scored.stderr.shape == value.shape, "stderr must have the shape of the scores")


def likelihood_refuses_other_shapes(case: Case) -> None:
    """An item of another shape is an error, and is never broadcast."""
    if not isinstance(case.event, Leaf) or case.event.length_axis is not None or not case.event.shape:
        return
    x = tensor(case.items(FEW))
    wrong = {"one value along the last axis": x[..., :1], "one value more": torch.cat([x, x[..., :1]], -1)}
    for title, value in wrong.items():
        try:
            score(case.model, value, case.given(FEW))
        except Exception:
            continue
        raise AssertionError(f"log_prob accepts an item of shape {tuple(value.shape[1:])}: {title}")


def works_in_float64(case: Case) -> None:
    """A model in float64 gives samples and scores in float64, and agrees with float32 where deterministic."""
    model, x, cond = case.double(), doubled(case.items(FEW)), case.given(FEW)
    drawn = case.shown(3, model)
    if isinstance(drawn, Tensor) and drawn.is_floating_point():
        require(drawn.dtype == torch.float64, f"samples of a float64 model are {drawn.dtype}")
    if not isinstance(model, Likelihood):
        return
    precise = score(model, x, cond)
    require_scores(precise, case.family.card.likelihood, FEW)
    if precise.kind in (Bound.EXACT, Bound.LOWER, Bound.UPPER):
        rough = score(case.model, case.items(FEW), cond).value.double()
        gap = (rough - precise.value).abs() / (1 + precise.value.abs())
        require(bool(gap.max() < 1e-2), f"float32 and float64 scores differ by {float(gap.max()):.1%}")


def training_reaches_everything(case: Case) -> None:
    """The phases give every trainable parameter a gradient and move it; the closed form yields figures."""
    trained = case.trained
    require(
        not trained.without_gradient, f"no gradient within 20 steps: {', '.join(trained.without_gradient)}"
    )
    require(not trained.unmoved, f"not moved within 20 steps: {', '.join(trained.unmoved)}")
    for name, value in trained.figures.items():
        require(isinstance(value, float) and value == value, f"the figure {name} is {value}")
    require(trained.figures.get("finite", 1.0) == 1.0, "some parameters are not finite after 20 steps")


def training_is_keyed(case: Case) -> None:
    """A loss is a function of the batch and the noise it is given, and of no other randomness."""
    for stage, objective in objectives(case, copied(case)):
        for phase in objective.phases:
            if phase.loss is not None:
                first, second = (loss_of(case, phase, seed) for seed in (1, 2))
                require(torch.equal(first, second), f"the loss of {stage.name}/{phase.name} is not keyed")


def loss_of(case: Case, phase: Phase, seed: int) -> Tensor:
    """Return a phase's loss of fixed items and noise, with torch's own generator seeded."""
    torch.manual_seed(seed)
    batch: dict[str, Value] = {"x": case.items(BATCH)}
    labels = case.given(BATCH)
    if labels is not None:
        batch["cond"] = labels
    noise = TrainNoise(generator("testing"), BATCH, 0, BATCH)
    assert phase.loss is not None
    return phase.loss(batch, noise, Clock(1, 2)).total.detach()


def micro_batches_add_up(case: Case) -> None:
    """A batch in two halves gives the gradient of the whole, so that ranks and accumulation agree."""
    if case.family.card.couples_samples:
        return
    whole, halves = (stepped_in_float64(case, accumulate) for accumulate in (1, 2))
    for name, gradient in whole.items():
        scale = float(gradient.abs().max()) + 1e-9
        gap = float((gradient - halves[name]).abs().max()) / scale
        require(gap < 1e-4, f"the gradient of {name} changes by {gap:.1%} when the batch is split in two")


def stepped_in_float64(case: Case, accumulate: int) -> dict[str, Tensor]:
    """Return the gradients of one step of every stage."""
    model = case.double().train()
    found: dict[str, Tensor] = {}
    for stage, objective in objectives(case, model):
        train_step(State.fresh(model, objective), rhythm(case, stage, accumulate, double=True))
        found |= {
            f"{stage.name}/{n}": p.grad.clone() for n, p in model.named_parameters() if p.grad is not None
        }
    return found


def resumes_exactly(case: Case) -> None:
    """Two steps, a checkpoint, a fresh model and two more steps equal four steps bit for bit."""
    for number, stage in enumerate(case.config.stages(case.build())):
        if stage.objective is None:
            continue
        steps = rhythm(case, stage)
        straight, first, second = (fresh_state(case, number, seed) for seed in (0, 0, 1))
        for state, count in ((straight, 4), (first, 2)):
            for _ in range(count):
                train_step(state, steps)
        second.load(load(save(first.tensors())))
        second.step = first.step
        for _ in range(2):
            train_step(second, steps)
        expected, found = straight.tensors(), second.tensors()
        require(set(expected) == set(found), "a resumed state has other tensors than an uninterrupted one")
        changed = [n for n, t in expected.items() if not torch.equal(t, found[n])]
        require(not changed, f"resuming changes {', '.join(changed[:3])}")


def fresh_state(case: Case, stage: int, seed: int) -> State:
    """Return the state before a stage of an untrained model."""
    model = case.build(seed)
    objective = case.config.stages(model)[stage].objective
    assert objective is not None
    return State.fresh(model, objective)


def weights_are_everything(case: Case) -> None:
    """A fresh model with the saved weights samples and scores as the trained one."""
    weights = {k: v.contiguous() for k, v in case.model.state_dict().items()}
    model = case.build(seed=1)
    model.load_state_dict(load(save(weights)))
    model.eval()
    require(equal(case.shown(3, model), case.shown(3)), "loaded weights give other samples")
    if isinstance(model, Likelihood):
        x, cond = case.items(FEW), case.given(FEW)
        before, after = (score(m, x, cond).value for m in (case.model, model))
        require(torch.equal(before, after), "loaded weights give other scores")


def modes_agree(case: Case) -> None:
    """Sampling and scoring do not depend on train() and eval()."""
    model = copied(case).train()
    require(equal(gives(case, model), gives(case, case.model)), "samples differ in train() mode")
    if isinstance(model, Likelihood):
        x, cond = case.items(FEW), case.given(FEW)
        before, after = (score(m, x, cond).value for m in (case.model, model))
        require(torch.equal(before, after), "scores differ in train() mode")


@torch.no_grad()
def gives(case: Case, model: nn.Module) -> Value:
    """Return a batch of samples, or of reconstructions, without a change of the model's mode."""
    if isinstance(model, Sampler):
        return model.sample(row_noise(BATCH), case.given(BATCH))
    return case.shown(BATCH, model)


def copied(case: Case) -> nn.Module:
    """Return a copy of the trained model."""
    return copy.deepcopy(case.model)


def trains_in_bfloat16(case: Case) -> None:
    """A step under autocast keeps parameters, gradients and terms finite and in float32."""
    model = copied(case).train()
    for stage, objective in objectives(case, model):
        figures = train_step(State.fresh(model, objective), rhythm(case, stage, bf16=True))
        require(all(v == v for v in figures.values()), f"a figure of {stage.name} is NaN")
    for name, p in model.named_parameters():
        require(p.dtype == torch.float32 and bool(p.isfinite().all()), f"{name} is {p.dtype} or not finite")


def labels_matter(case: Case) -> None:
    """Labels may be given, left out, or null; giving one changes what the model does."""
    if not case.classes:
        return
    null, zeros = torch.full((FEW,), CLASSES), torch.zeros(FEW, dtype=torch.int64)
    with torch.no_grad():
        conds = (None, null, zeros, zeros + 1)
        draws = [sampler(case).sample(row_noise(FEW), cond) for cond in conds]
    for value in draws:
        require_legal(case.event, value, FEW)
    require(equal(draws[0], draws[1]), "samples with the null label differ from those without a label")
    changed = not equal(draws[2], draws[3])
    if isinstance(case.model, Likelihood):
        without, nulled, zero, one = (
            score(case.model, case.items(FEW), cond).value for cond in (None, null, zeros, zeros + 1)
        )
        require(torch.equal(without, nulled), "scores with the null label differ from those without a label")
        changed = changed or not torch.equal(zero, one)
    require(changed, "the card takes class labels, but they change neither samples nor scores")


def numbers_matter(case: Case) -> None:
    """Numbers given change what the model does; where they are missing or too few, ``DataError`` says so."""
    if not case.numbers:
        return
    zeros = torch.zeros(FEW, case.numbers)
    with torch.no_grad():
        draws = [sampler(case).sample(row_noise(FEW), zeros + shift) for shift in (0, 1)]
        require(not equal(*draws), "the card takes numbers as conditions, but they do not change samples")
        for cond in (None, zeros[:, 1:], zeros[1:]):
            try:
                sampler(case).sample(row_noise(FEW), cond)
            except DataError:
                continue
            raise AssertionError("conditions that are missing or of another shape are not refused")


def source_matters(case: Case) -> None:
    """What is given changes what the model does; where it is missing or too few, ``DataError`` says so."""
    given = case.given(FEW)
    assert isinstance(given, Padded)
    others = take(given, torch.arange(FEW).roll(1))
    with torch.no_grad():
        scores = [score(case.model, case.items(FEW), cond).value for cond in (given, others)]
        require(not torch.equal(*scores), "the card takes sequences, but they do not change scores")
        for cond in (None, take(given, slice(1, None))):
            try:
                sampler(case).sample(row_noise(FEW), cond)
            except DataError:
                continue
            raise AssertionError("sequences that are missing or of another number are not refused")


def texts_matter(case: Case) -> None:
    """Texts may be given, left out, or empty; another one changes what the model does if all parts speak."""
    if case.source is None:
        return
    model = copied(case)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(torch.randn(weight.shape, generator=generator("speak")), alpha=0.05)
    drawer = need(model, Sampler, "sample")
    given = case.given(FEW)
    assert isinstance(given, Padded)
    empty, others = (
        Padded(given.values, torch.zeros_like(given.lengths)),
        take(given, torch.arange(FEW).roll(1)),
    )
    with torch.no_grad():
        draws = [drawer.sample(row_noise(FEW), cond) for cond in (None, empty, given, others)]
    require(equal(draws[0], draws[1]), "samples with empty texts differ from those without a text")
    changed = not equal(draws[2], draws[3])
    if isinstance(model, Likelihood):
        with torch.no_grad():
            scores = [score(model, case.items(FEW), cond).value for cond in (given, others)]
        changed = changed or not torch.equal(*scores)
    require(changed, "the card takes texts, but they change neither samples nor scores")
    try:
        drawer.sample(row_noise(FEW), take(given, slice(1, None)))
    except DataError:
        return
    raise AssertionError("texts of another number are not refused")


def alignment_adds_up(case: Case) -> None:
    """Each symbol and the end share out their attention over the places that the source and its end have."""
    x, given = case.items(FEW), case.given(FEW)
    assert isinstance(given, Padded)
    with torch.no_grad():
        found = as_capability(case, Aligner).align(x, given)
    written = x.lengths + 1 if isinstance(x, Padded) else torch.full((FEW,), found.shape[1])
    for shares, symbols, places in zip(found, written.tolist(), (given.lengths + 1).tolist(), strict=True):
        total = shares[:symbols, :places].sum(1)
        require(bool((shares >= 0).all()), "some shares of attention are negative")
        require(torch.allclose(total, torch.ones_like(total), atol=1e-5), "shares do not add up to 1")


def codes_decode(case: Case) -> None:
    """Codes are finite, one for each item and its alone, and decode to legal items."""
    model, x, cond = as_capability(case, Latent), case.items(FEW), case.given(FEW)
    beside = stack([take(x, slice(0, 3)), take(case.data, slice(ROWS - 3, ROWS))])
    with torch.no_grad():
        z, other = model.encode(x, cond), model.encode(beside, cond)
        decoded = model.decode(z, cond)
    require(torch.equal(z[:3], other[:3]), "a code depends on the other rows of its batch")
    require(len(z) == FEW and bool(z.isfinite().all()), "codes must be (B, ...) and finite")
    require_legal(case.event, decoded, FEW)


def codes_lead_back(case: Case) -> None:
    """Decoding a code gives the item back, to a hundredth of the spread of items."""
    model, x, cond = as_capability(case, Reversible), tensor(case.items(FEW)), case.given(FEW)
    with torch.no_grad():
        gap = float((tensor(model.decode(model.encode(x, cond), cond)) - x).abs().max())
    require(gap < 0.01 * float(x.std()), f"decode(encode(x)) misses x by {gap:.2g}")


def codes_are_inferred(case: Case) -> None:
    """Codes drawn for items are like those of the prior, each of its item alone, and explain it finitely."""
    model, x, cond = as_capability(case, LatentVariable), case.items(FEW), case.given(FEW)
    few = None if cond is None else take(cond, slice(0, 3))
    with torch.no_grad():
        z, log_q = model.infer(x, row_noise(FEW), cond)
        other, _ = model.infer(take(x, slice(0, 3)), row_noise(3), few)
        drawn = model.draw_code(row_noise(FEW), cond)
        nats = model.log_likelihood(x, z, cond) + model.log_prior(z, cond) - log_q
    require(z.shape == drawn.shape, f"inferred codes are {tuple(z.shape)}, drawn ones {tuple(drawn.shape)}")
    require(torch.allclose(z[:3], other, atol=1e-5), "an inferred code depends on the other rows")
    require(
        nats.shape == (FEW,) and bool(nats.isfinite().all()), "log q, the prior or p(x|z) is not (B,) nats"
    )


def inverse_inverts(case: Case) -> None:
    """In float64, decoding a code gives the item back to 1e-8, and log_det is that of autograd's Jacobian."""
    model, cond = need(case.double(), Invertible, "invertible"), case.given(2)
    x = tensor(doubled(case.items(2))).requires_grad_()
    z, log_det = model.forward_and_log_det(x, cond)
    back = tensor(model.decode(z.detach(), cond))
    gap = float((back - x).detach().abs().max())
    require(gap < 1e-8, f"decode(encode(x)) misses x by {gap:.2g}")
    flat = z.flatten(1)
    each = torch.eye(flat.shape[1], dtype=z.dtype)[:, None].expand(-1, 2, -1)
    (rows_of,) = torch.autograd.grad(flat, x, each, is_grads_batched=True)
    jacobian = rows_of.flatten(2).transpose(0, 1)
    require(jacobian.shape[1] == jacobian.shape[2], "codes must have as many values as items")
    require(log_det.shape == (2,), f"the shape of log_det is {tuple(log_det.shape)}, not (2,)")
    error = float((torch.linalg.slogdet(jacobian).logabsdet - log_det).detach().abs().max())
    require(error < 1e-8 * jacobian.shape[1], f"log_det misses the Jacobian's by {error:.2g} nats")


def denoiser_denoises(case: Case) -> None:
    """The estimate of the clean item has the item's shape and is finite, from the data to all noise."""
    x = torch.randn(FEW, *leaf_of(case).extents, generator=generator("testing"))
    times = torch.linspace(0, 1, FEW)
    with torch.no_grad():
        clean = as_capability(case, Denoiser).denoise(x, times, case.given(FEW))
    require(
        clean.shape == x.shape, f"the shape of the estimate is {tuple(clean.shape)}, not {tuple(x.shape)}"
    )
    require(bool(clean.isfinite().all()), "the estimate is not finite")


def leaf_of(case: Case) -> Leaf:
    """Return the event of a case, which must be a leaf."""
    assert isinstance(case.event, Leaf)
    return case.event


def energy_is_minus_score(case: Case) -> None:
    """Energies are finite, (B,), and differ between items as minus the log-likelihood does."""
    x, cond = case.items(FEW), case.given(FEW)
    with torch.no_grad():
        energy = as_capability(case, Energy).energy(x, cond)
    require(energy.shape == (FEW,) and bool(energy.isfinite().all()), "energies must be (B,) and finite")
    if case.family.card.likelihood in (Bound.EXACT, Bound.ESTIMATE, Bound.UNNORMALISED):
        total = energy + score(case.model, x, cond).value
        spread = float((total - total.mean()).abs().max())
        require(spread < 1e-3 * (1 + float(energy.abs().max())), "energy and log_prob do not agree")


def closed_form_fits(case: Case) -> None:
    """A second fit, after the same earlier stages, gives the same weights whatever torch's generator says."""
    trained = any(stage.objective for stage in case.config.stages(case.build()))
    again = copied(case) if trained else case.build(seed=1)
    torch.manual_seed(4)
    need(again, ClosedForm, "fit").fit(case.data, case.held_out, row_noise(1), case.given(ROWS))
    for name, value in case.model.state_dict().items():
        require(torch.equal(again.state_dict()[name], value), f"a second fit gives another {name}")


def refuses_other_events(subject: Subject) -> None:
    """An event that the card does not accept and models cannot take is refused with a ``GenloomError``."""
    accepted = {case.title for case in subject.cases}
    for title in REFUSABLE:
        event = subject.events.get(title)
        if event is None or title in accepted:
            continue
        try:
            subject.family.config.preset(event).build(event, None)
        except GenloomError:
            continue
        except Exception as error:
            raise AssertionError(f"{title}: {type(error).__name__} instead of a GenloomError") from error
        raise AssertionError(f"{title}: the card does not accept it, and yet a model was built")
