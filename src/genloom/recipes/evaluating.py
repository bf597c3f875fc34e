"""Measure a trained model on held-out data: quality of samples, likelihood, and copying."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from genloom.core.capabilities import Latent, LatentVariable, Likelihood, Reversible, Sampler
from genloom.core.errors import DataError
from genloom.core.events import Value
from genloom.core.likelihood import LogProb
from genloom.core.randomness import SampleNoise, key
from genloom.metrics import (
    CopyReport,
    Figure,
    Fingerprint,
    bootstrap,
    copying,
    inception_score,
    likelihood_figure,
    measure,
    probe_accuracy,
    wilson,
)
from genloom.modalities.base import Dataset, Modality, Split
from genloom.modalities.datasets import TEMPLATES, DataOptions, open_data
from genloom.modalities.images import Images
from genloom.modalities.pairs import Pairs
from genloom.modalities.prompts import PromptedView
from genloom.modalities.templates import named_colours
from genloom.recipes import translating
from genloom.recipes.features import Features, features_for
from genloom.recipes.runs import Run
from genloom.tasks import latents, sampling, scoring

SAMPLE_METRICS = ("frechet", "kernel", "c2st", "precision", "recall", "density", "coverage")
LEAST_ITEMS = 20
MAX_ITEMS = 2048
PROBED_ITEMS = 5000
SCORED_ITEMS = 512
"""Test items whose likelihood is computed by default: bounds of conditional models take many passes."""

MOST_BITS = 1000.0
"""A word, beyond which a perplexity would be no number."""

COMPARED_ITEMS = 100_000
"""Training items, and test items, at most that samples are compared with to find copies: some of more."""

MAX_CLASSES = 20
"""Up to this many classes, p(x) of a conditional model is computed by summing over them."""


@dataclass(frozen=True)
class Measured:
    """The result of an evaluation."""

    figures: dict[str, Figure]
    copies: CopyReport
    items: Tensor
    labels: Tensor | None
    sample_seconds_per_1000: float | None


@dataclass(frozen=True)
class Evaluation:
    """All figures of a run, and whether its samples are flagged as copies."""

    figures: dict[str, Figure]
    flagged: bool


def held_out(dataset: Dataset, limit: int = MAX_ITEMS) -> Split:
    """Return the test items that everything is measured on, no more than there are validation items.

    Raises:
        DataError: there are too few to measure anything.
    """
    split = dataset.test.some(min(limit, len(dataset.valid)))
    if len(split) < LEAST_ITEMS:
        raise DataError(
            f"{dataset.name} has {len(dataset.valid)} validation and {len(dataset.test)} test items: "
            f"{LEAST_ITEMS} of each are needed to measure anything"
        )
    return split


def check_measurable(dataset: Dataset, limit: int = MAX_ITEMS) -> None:
    """Refuse data of which nothing could be measured after training.

    Raises:
        DataError: a split has too few items.
    """
    held_out(dataset, limit)
    if len(dataset.train) <= LEAST_ITEMS:
        raise DataError(
            f"{dataset.name} has {len(dataset.train)} training items: more than {LEAST_ITEMS} are needed to "
            "tell copies from new items"
        )


def as_seen(dataset: Dataset, split: Split, seed: int) -> Tensor:
    """Return items as the data's first view shows them: binarised, if the data are."""
    view = dataset.modality.views()[0]
    noise = SampleNoise(key(seed, "as seen"), torch.arange(len(split)))
    seen = view.decode(view.perturb(view.encode(split.items), noise))
    return view.join(seen, view.conditions(split))


def evaluate_run(
    run: Run, *, features: Path | None = None, limit: int = MAX_ITEMS, scored: int = SCORED_ITEMS
) -> Evaluation:
    """Measure what a finished run offers, on the data it was trained on, which are opened again.

    Samples are compared with the test split, test items scored, and reconstructed by models whose codes may
    lose something; a model that draws no samples is measured by the rest.

    Args:
        features: weights that a comparison exported, to be used instead of the data's own features.

    Raises:
        RunError: the run is not finished.
        DataError: the data are gone or have changed.
    """
    model, dataset = run.load(), data_of(run)
    figures, flagged = dict[str, Figure](), False
    if isinstance(model, Sampler):
        measured = evaluate(run, dataset, features_for(dataset, features), limit=limit, scored=scored)
        figures, flagged = measured.figures, measured.copies.flagged
    elif isinstance(model, Likelihood):
        figures = likelihood(model, run, dataset, scored)
    if isinstance(model, Latent) and not isinstance(model, Reversible):
        figures["reconstruction"] = reconstruction_figure(model, run, dataset, held_out(dataset, limit))
        figures |= probe_figure(model, run, dataset, held_out(dataset, limit))
    if isinstance(model, LatentVariable):
        figures["rate"] = rate_figure(model, run, dataset, held_out(dataset, limit))
    return Evaluation(figures, flagged)


def data_of(run: Run) -> Dataset:
    """Open the data that a run was trained on.

    Raises:
        DataError: they are gone or have changed.
    """
    facts = run.facts["data"]
    if run.untrained:
        raise DataError(f"{facts['name']} came without data: name a folder of images")
    dataset = open_data(facts["source"], DataOptions(**facts["options"]))
    check_same_data(run, dataset)
    return dataset


def check_form(run: Run, modality: Modality, items: Tensor, source: str) -> None:
    """Refuse items that are not of the form of a run's own data.

    Raises:
        DataError: they are of another modality, unit or shape.
    """
    try:
        own, other = (m.describe() for m in (run.modality, modality))
        if (own["modality"], own.get("unit")) != (other["modality"], other.get("unit")):
            units = [" in ".join(filter(None, (d["modality"], d.get("unit")))) for d in (other, own)]
            raise DataError("they are {}, not {}".format(*units))
        run.modality.check(items)
    except DataError as error:
        raise DataError(f"{source} does not have the form of the run's own data: {error}") from error


def evaluate(
    run: Run, dataset: Dataset, features: Features, *, limit: int = MAX_ITEMS, scored: int = SCORED_ITEMS
) -> Measured:
    """Measure a finished run on its data's test split.

    Args:
        limit: at most this many test items are used, and as many samples drawn.
        scored: the likelihood is computed of at most this many test items, of none by 0.

    Raises:
        DataError: the data are not those the run was trained on.
    """
    check_same_data(run, dataset)
    model, test = run.load(), held_out(dataset, limit)
    labels = sampling.drawn_labels(len(test), run.label_counts, 1) if run.classes else None
    given = run.view.conditions(test) if labels is None else labels
    began = time.perf_counter()
    items = run.sample(model, len(test), seed=1, cond=given)
    seconds = (time.perf_counter() - began) / len(test) * 1000
    figures = sample_figures(items, dataset, features, test)
    meant = test.labels if isinstance(run.view, PromptedView) else labels
    if meant is not None and features.probs is not None:
        figures["class_accuracy"] = class_accuracy_figure(items, meant, dataset, features)
        if run.facts["data"]["options"].get("captions") == TEMPLATES and items.shape[1] == 3:
            figures["caption_accuracy"] = caption_accuracy_figure(items, test, dataset, features)
    if isinstance(model, Likelihood) and scored:
        figures |= likelihood(model, run, dataset, scored)
    learnt = replace(dataset, train=run.trained_on(dataset))
    copies = copies_among(items, learnt)
    figures["copying"] = copying_figure(copies, learnt)
    if isinstance(run.modality, Pairs):
        figures |= translating.measured(run, dataset, limit)
    return Measured(figures, copies, items, labels, seconds)


def check_same_data(run: Run, dataset: Dataset) -> None:
    """Refuse a data set that is not what a run was trained on.

    Raises:
        DataError: the fingerprints differ.
    """
    trained, source = run.facts["data"]["fingerprint"], run.facts["data"]["source"]
    if trained != dataset.fingerprint:
        raise DataError(
            f"{run.folder} was trained on data of fingerprint {trained}, and {source} is "
            f"{dataset.fingerprint} now: restore the data, or fit again"
        )


def sample_figures(
    items: Tensor, dataset: Dataset, features: Features, test: Split, seed: int = 0
) -> dict[str, Figure]:
    """Compare items with the test split in feature space."""
    real, fake = features.extract(test.items), features.extract(items)
    about = {
        "features": features.name,
        "preprocessing": features.preprocessing,
        "data": f"{dataset.fingerprint}:test[{len(test)}]",
    }
    found = {n: replace(measure(n, real, fake, seed=seed, **about), note="") for n in SAMPLE_METRICS}
    if features.probs is not None:
        found["inception"] = _inception(features.probs(items), features, about["data"], seed)
    return found


def class_accuracy_figure(items: Tensor, labels: Tensor, dataset: Dataset, features: Features) -> Figure:
    """Return how often a classifier of real items names the class that a sample was drawn for.

    Its note has how often it names that of a real validation item.
    """
    note = "" if features.accuracy is None else f"{features.accuracy:.1%} of real items"
    return _share_figure("class_accuracy", _recognised(items, labels, features), dataset, features, note)


def caption_accuracy_figure(items: Tensor, test: Split, dataset: Dataset, features: Features) -> Figure:
    """Return how often a sample shows both the class and the colour that the caption of a test item names.

    Its note has how often the colour alone is right.
    """
    modality = dataset.modality
    assert isinstance(modality, Images)
    assert test.labels is not None
    drawn, meant = (named_colours(x, modality.levels) for x in (items, test.items))
    right = _recognised(items, test.labels, features) & (drawn == meant)
    note = f"the colour of {float((drawn == meant).double().mean()):.1%}"
    return _share_figure("caption_accuracy", right, dataset, features, note)


def _recognised(items: Tensor, labels: Tensor, features: Features) -> Tensor:
    """Return of which items a classifier names the class, (n,)."""
    assert features.probs is not None
    return features.probs(items).argmax(1) == labels


def _share_figure(name: str, right: Tensor, dataset: Dataset, features: Features, note: str) -> Figure:
    """Return the share of what is right (n,), with its interval."""
    share, n = float(right.double().mean()), len(right)
    lo, hi = wilson(share, n)
    mark = Fingerprint(f"{name}(n={n})", 1, features.name, features.preprocessing, dataset.fingerprint)
    return Figure(name, share, min(lo, share), max(hi, share), n, mark, note=note)


def _inception(probs: Tensor, features: Features, data: str, seed: int) -> Figure:
    """Return the Inception Score of class probabilities (n, classes), with a bootstrap interval."""
    lo, hi = bootstrap(lambda index: inception_score(probs[index]), len(probs), seed=seed)
    value = inception_score(probs)
    mark = Fingerprint(f"inception(n={len(probs)})", 1, features.name, features.preprocessing, data)
    return Figure("inception", value, min(lo, value), max(hi, value), len(probs), mark)


def likelihood(model: nn.Module, run: Run, dataset: Dataset, items: int) -> dict[str, Figure]:
    """Return negative log-likelihood (nats an item) and bits a unit of some test items.

    A class-conditional model is scored by p(x) = sum_y p(y) p(x|y), with p(y) from the training labels, so
    that it compares with unconditional ones; with too many classes for that, by p(x|y), and says so.
    """
    test = dataset.test.some(items)
    scored = score(model, run, test)
    data, view = f"{dataset.fingerprint}:test[{len(test)}]", dataset.modality.name
    figure = partial(likelihood_figure, scored, data=data, preprocessing=view)
    found = {"nll": figure(), "bits_per_dim": figure(units=dataset.modality.count_units(test.items))}
    others = dataset.modality.other_units(test.items)
    if "bytes" in others:
        found["bits_per_byte"] = replace(figure(units=others["bytes"]), name="bits_per_byte")
    if "words" in others and bool(others["words"].any()):
        found["perplexity"] = perplexity(figure(units=others["words"]))
    return found


def perplexity(rate: Figure) -> Figure:
    """Return 2 to the power of bits a word: among how many words, all alike, the model chooses each time."""
    value, lo, hi = (2.0 ** min(bits, MOST_BITS) for bits in (rate.value, rate.lo, rate.hi))
    return replace(rate, name="perplexity", value=value, lo=lo, hi=hi)


def score(model: nn.Module, run: Run, split: Split, seed: int = 0) -> LogProb:
    """Return the log-likelihood of the items of a split in nats of the data, (n,)."""
    return run.view.to_data(*score_seen(model, run, split, seed))


def score_seen(model: nn.Module, run: Run, split: Split, seed: int = 0) -> tuple[LogProb, Value]:
    """Return the log-likelihood (n,) of items as the model sees them, in nats of its view, and these."""
    noise = SampleNoise(key(seed, "score"), torch.arange(len(split)))
    x = run.view.perturb(run.view.encode(split.items), noise)
    if not run.classes:
        return scoring.log_prob(model, x, run.view.conditions(split), seed=seed), x
    if len(run.classes) <= MAX_CLASSES:
        prior = run.label_counts / run.label_counts.sum()
        return scoring.marginal_log_prob(model, x, prior, seed=seed), x
    return scoring.log_prob(model, x, split.labels, seed=seed), x


def seen(run: Run, items: Tensor, seed: int = 0) -> Value:
    """Return items as the run's model sees them, with keyed noise where its view draws some."""
    noise = SampleNoise(key(seed, "codes"), torch.arange(len(items)))
    return run.view.perturb(run.view.encode(items), noise)


def reconstructed(model: nn.Module, run: Run, split: Split) -> tuple[Tensor, Tensor]:
    """Return what is left of items after encoding and decoding, and each one's error, (n,) float64.

    The error is the mean squared difference of its values, in their natural units.

    Raises:
        Unsupported: the model has no codes.
    """
    given = run.view.conditions(split)
    back = latents.reconstruct(model, seen(run, split.items), run.conditions(split))
    items = run.view.join(run.view.decode(back), given)
    features = run.modality.features
    gap = features(items).double() - features(split.items).double()
    return items, gap.square().mean(1)


def reconstruction_figure(model: nn.Module, run: Run, dataset: Dataset, test: Split) -> Figure:
    """Return the mean squared error of reconstructed test items, with a bootstrap interval."""
    errors = reconstructed(model, run, test)[1]
    return _mean_figure("reconstruction", "mean_squared_error", "raw", errors, dataset)


def rate_figure(model: nn.Module, run: Run, dataset: Dataset, test: Split) -> Figure:
    """Return what a code says of a test item, in nats, with a bootstrap interval."""
    nats = latents.rates(model, seen(run, test.items), run.conditions(test))
    return _mean_figure("rate", "rate", "codes", nats, dataset)


def _mean_figure(name: str, metric: str, features: str, values: Tensor, dataset: Dataset) -> Figure:
    """Return the mean of a number of each test item (n,), with a bootstrap interval."""
    value, n = float(values.mean()), len(values)
    lo, hi = bootstrap(lambda index: float(values[index].mean()), n, seed=0)
    mark = Fingerprint(metric, 1, features, dataset.modality.name, f"{dataset.fingerprint}:test[{n}]")
    return Figure(name, value, min(lo, value), max(hi, value), n, mark)


def probe_figure(model: nn.Module, run: Run, dataset: Dataset, test: Split) -> dict[str, Figure]:
    """Return how often a linear classifier names the class of a test item from its code alone.

    Nothing for data without classes. A conditional model is asked without a class.
    """
    train = dataset.train.some(PROBED_ITEMS)
    if train.labels is None or test.labels is None or len(train.labels.unique()) < 2:
        return {}
    codes = [latents.encode(model, seen(run, part.items)).flatten(1) for part in (train, test)]
    value, lo, hi = probe_accuracy(codes[0], train.labels, codes[1], test.labels)
    data = f"{dataset.fingerprint}:train[{len(train)}],test[{len(test)}]"
    mark = Fingerprint("probe_accuracy", 1, "codes", dataset.modality.name, data)
    return {"probe_accuracy": Figure("probe_accuracy", value, lo, hi, len(test), mark)}


def copies_among(items: Tensor, dataset: Dataset, seed: int = 0) -> CopyReport:
    """Check samples for copies of training items, calibrated on held-out ones."""
    raw = dataset.modality.features
    train = raw(as_seen(dataset, dataset.train.at_most(COMPARED_ITEMS), seed)).flatten(1).double()
    unseen = raw(dataset.test.at_most(COMPARED_ITEMS).items).flatten(1).double()
    return copying(raw(items).flatten(1).double(), train, unseen, seed=seed)


def copying_figure(report: CopyReport, dataset: Dataset) -> Figure:
    """Return the share of copies as a figure; its note has the p-value of "no closer than new data"."""
    n = len(report.nearest)
    lo, hi = wilson(report.fraction, n)
    total, seen = len(dataset.train), min(len(dataset.train), COMPARED_ITEMS)
    part = "train" if seen == total else f"train[{seen}]"
    mark = Fingerprint(
        f"copying(n={n})", 1, "raw", dataset.modality.name, f"{dataset.fingerprint}:{part},test"
    )
    among = "" if seen == total else f", among {seen:,} of {total:,} training items"
    note = f"p = {report.p_value:.2g}{among}"
    return Figure(
        "copying", report.fraction, min(lo, report.fraction), max(hi, report.fraction), n, mark, note=note
    )


def reference_items(dataset: Dataset, limit: int = MAX_ITEMS) -> Mapping[str, Tensor]:
    """Return the items of the reference rows: real data that no model saw, and copies of training items."""
    n = len(held_out(dataset, limit))
    copies = as_seen(dataset, dataset.train.some(n, "copies"), 2)
    return {"real": dataset.valid.some(n).items, "copies": copies}
