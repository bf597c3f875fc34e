"""The leaderboard's columns, its ranks, and the sentences beside it."""

import math
from collections.abc import Mapping, Sequence
from statistics import mean, stdev
from typing import Any

from genloom.core.errors import ConfigError
from genloom.metrics import METRICS, student

RANK_BY = "frechet"


def sentence(text: str) -> str:
    """Return a phrase with a capital and a full stop."""
    return f"{text[0].upper()}{text[1:]}."


COLUMNS: list[dict[str, str]] = [
    {
        "key": name,
        "title": title,
        "better": METRICS[name].better,
        "unit": "",
        "how": sentence(METRICS[name].how),
    }
    for name, title in (
        ("frechet", "Fréchet distance"),
        ("kernel", "Kernel distance"),
        ("c2st", "Two-sample accuracy"),
        ("precision", "Precision"),
        ("recall", "Recall"),
        ("density", "Density"),
        ("coverage", "Coverage"),
    )
] + [
    {
        "key": "inception",
        "title": "Inception score",
        "better": "higher",
        "unit": "",
        "how": "exp of the mean divergence between a sample's class probabilities and their average, "
        "by the classifier of the features (Salimans et al. 2016); blind to copying and to missing modes.",
    },
    {
        "key": "class_accuracy",
        "title": "Class accuracy",
        "better": "higher",
        "unit": "",
        "how": "Share of samples in which a classifier of real items sees the class they were drawn for; "
        "blind to variety within a class.",
    },
    {
        "key": "caption_accuracy",
        "title": "Caption accuracy",
        "better": "higher",
        "unit": "",
        "how": "Share of samples with the class and the colour that their captions name, of test items in "
        "words that no caption had in training; the class by a classifier, the colour by the middle's mean.",
    },
    {
        "key": "nll",
        "title": "Negative log-likelihood",
        "better": "lower",
        "unit": "nats",
        "how": "Mean of -log p(x) over the test items, in nats of the data, whatever view the model was "
        "trained on; only equal kinds are ranked against each other.",
    },
    {
        "key": "bits_per_dim",
        "title": "Bits per dimension",
        "better": "lower",
        "unit": "bits",
        "how": "The negative log-likelihood over the number of scalars of an item, in bits.",
    },
    {
        "key": "bleu",
        "title": "BLEU",
        "better": "higher",
        "unit": "",
        "how": "Precision of runs of one to four words of greedy translations against one of a person each, "
        "from 0 to 100 (Papineni et al. 2002; sacrebleu, 13a).",
    },
    {
        "key": "copying",
        "title": "Copies",
        "better": "lower",
        "unit": "",
        "how": "Share of samples that sit closer to a training item than new data do, above what held-out "
        "items show; a model flagged at p < 0.001 is not ranked.",
    },
]


def rank_rows(rows: Sequence[dict[str, Any]]) -> None:
    """Number the rows that may be ranked, best first, by the ranking figure.

    Raises:
        ConfigError: the figures were made differently, and so do not compare.
    """
    ranked = [r for r in rows if r["role"] == "model" and r["status"] == "ok" and RANK_BY in r["figures"]]
    if len({r["figures"][RANK_BY].get("fingerprint", {}).get("digest") for r in ranked}) > 1:
        raise ConfigError(f"{RANK_BY} figures of different fingerprints do not rank: measure all alike")
    for place, row in enumerate(sorted(ranked, key=lambda r: float(r["figures"][RANK_BY]["value"])), 1):
        row["rank"] = place


def merge_seeds(figures: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return one figure per metric: its mean over seeds, with an interval that covers seeds and sampling.

    The half-width is the root of the sum of the squared Student interval of the mean over seeds and the mean
    squared sampling half-width divided by the number of seeds. A mean that is infinite has no interval.
    """
    if len(figures) == 1:
        return dict(figures[0])
    count = len(figures)
    merged = {}
    for name, first in figures[0].items():
        note = first.get("note", "") if len({f[name].get("note", "") for f in figures}) == 1 else ""
        first = {**first, "note": note}
        values = [float(f[name]["value"]) for f in figures]
        if not all(map(math.isfinite, values)):
            merged[name] = {**first, "value": str(mean(values)), "lo": "-inf", "hi": "inf"}
            continue
        halves = [(f[name]["hi"] - f[name]["lo"]) / 2 for f in figures]
        seeds = student(0.95, count - 1) * stdev(values) / math.sqrt(count)
        reach = math.sqrt(seeds**2 + mean(h * h for h in halves) / count)
        centre = mean(values)
        merged[name] = {**first, "value": centre, "lo": centre - reach, "hi": centre + reach}
    return merged


def remarks(results: Mapping[str, Any]) -> list[str]:
    """Return the main finding; the report itself adds ties, unranked rows and what the intervals cover."""
    ranked = sorted((r for r in results["rows"] if r["rank"]), key=lambda r: r["rank"])
    if not ranked:
        return ["No model could be ranked."]
    best = ranked[0]
    text = f"{best['title']} ({best['name']}) has the lowest Fréchet distance to the test data."
    if best["name"].startswith("baseline."):
        text += " A classical baseline wins here, which it often does on small and simple data."
    return [text]
