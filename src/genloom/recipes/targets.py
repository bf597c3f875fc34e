"""Published results that ``genloom reproduce`` trains towards: protocol, target and source of each."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from genloom.modalities.datasets import DataOptions
from genloom.recipes.fitting import FitConfig
from genloom.train.config import TrainConfig


@dataclass(frozen=True)
class AtMost:
    """A figure that must not be larger."""

    value: float

    def met(self, reached: float) -> bool:
        """Tell whether a figure meets the target."""
        return reached <= self.value

    def __str__(self) -> str:
        return f"<= {self.value:g}"


@dataclass(frozen=True)
class AtLeast:
    """A figure that must not be smaller."""

    value: float

    def met(self, reached: float) -> bool:
        """Tell whether a figure meets the target."""
        return reached >= self.value

    def __str__(self) -> str:
        return f">= {self.value:g}"


@dataclass(frozen=True)
class Near:
    """A figure that must be equal to within a tolerance."""

    value: float
    within: float

    def met(self, reached: float) -> bool:
        """Tell whether a figure meets the target."""
        return abs(reached - self.value) <= self.within

    def __str__(self) -> str:
        return f"{self.value:.4f} +- {self.within:g}"


@dataclass(frozen=True)
class Recipe:
    """A fit and the figure of the whole test split that it is to reach.

    Args:
        fit: what is trained; its seed is the recipe's.
        target: what counts as reproduced.
        published: others' figures under the same protocol, with their sources.
        protocol: what the figure is of.
        space: where the likelihood is a density: of the data, or of what the model sees of them.
        scoring: settings of the family that differ when it is scored, such as more importance samples.
        figure: nats an item or one of the data's units, such as a character, or a figure of translations, of
            samples of a class, or the Fréchet distance of samples.
    """

    fit: FitConfig
    target: AtMost | AtLeast | Near
    published: str
    protocol: str
    space: Literal["data", "view"] = "data"
    scoring: Mapping[str, Any] = field(default_factory=dict)
    figure: Literal[
        "nats", "nats a unit", "bleu", "bleu_words", "class_accuracy", "caption_accuracy", "frechet"
    ] = "nats"

    @property
    def quick(self) -> bool:
        """Whether it takes seconds: nothing is trained by gradients."""
        return isinstance(self.target, Near)


COUNTED = {
    "nltcs": (9.2336, 6.7590),
    "plants": (31.2662, 16.5240),
    "mushrooms": (34.2315, 21.0224),
    "dna": (100.3859, 87.7348),
}
"""Nats of independent values and of the Chow-Liu tree, by Laplace's rule on the official splits."""

CONTEXT = {
    "nltcs": "LearnSPN 6.11, RAT-SPN 6.01",
    "plants": "LearnSPN 12.98, RAT-SPN 13.44",
    "mushrooms": "no figure at hand",
    "dna": "LearnSPN 82.52, RAT-SPN 97.23",
}


def _counted(name: str, family: str, value: float) -> Recipe:
    protocol = f"{name}, official split, Laplace's rule, exact"
    return Recipe(FitConfig(family, name), Near(value, 1e-3), CONTEXT[name], protocol)


def _learned(name: str, family: str, **model: Any) -> Recipe:
    """Return a short fit that is to pass the Chow-Liu tree."""
    fit = FitConfig(family, name, model, TrainConfig(budget="2m"))
    return Recipe(fit, AtMost(COUNTED[name][1]), CONTEXT[name], f"{name}, official split, exact")


def _mnist(family: str, budget: str, **more: Any) -> FitConfig:
    """Return a fit of dynamically binarised MNIST without labels."""
    train = TrainConfig(budget=budget, **more.pop("train", {}))
    return FitConfig(family, "mnist", more, train, DataOptions(binarise="dynamic"), conditional="no")


def _text(family: str, source: str, target: float, train: TrainConfig, **model: Any) -> Recipe:
    """Return a fit of texts, scored in nats a character."""
    fit = FitConfig(family, source, model, train)
    published, protocol = TEXTS[source]
    return Recipe(fit, AtMost(target), published, protocol, figure="nats a unit")


def _translation(family: str, target: float, budget: str, **model: Any) -> Recipe:
    """Return a fit of German sentences and their English translations."""
    data = DataOptions(vocabulary=5000)
    return Recipe(
        FitConfig(family, "multi30k", model, TrainConfig(budget=budget), data),
        AtLeast(target),
        "LSTM 13.8, GRU with attention 28.3, ConvS2S 34.1, transformer 36.5 (bentrevett/pytorch-seq2seq)",
        "Multi30k German to English, test 2016, small letters, greedy, words and signs split alike, BLEU",
        figure="bleu_words",
    )


def _captions(
    family: str,
    target: AtMost | AtLeast,
    figure: Literal["nats", "class_accuracy"] = "nats",
    budget: str = "10m",
    **model: Any,
) -> Recipe:
    """Return a fit of captions as byte pairs: by class where samples of a class are what counts."""
    conditional: Literal["no", "yes"] = "no" if figure == "nats" else "yes"
    fit = FitConfig(
        family,
        "captions",
        model,
        TrainConfig(budget=budget),
        DataOptions(vocabulary=3000),
        conditional=conditional,
    )
    scoring = {"importance_samples": 64} if family == "seq.vae" else {}
    return Recipe(fit, target, *CAPTIONS[figure], scoring=scoring, figure=figure)


CAPTIONS = {
    "nats": (
        "other sentences, of the Penn Treebank: LSTM 100, VAE 101 with a KL of 2; without inputs 135 and 125 "
        "(Bowman et al. 2016)",
        "captions, Multi30k's test 2016, small letters, 3,000 byte pairs, nats a caption, codes by 64 draws",
    ),
    "class_accuracy": (
        "no figure at hand",
        "captions drawn for a subject, how often a classifier of counts of letters names it",
    ),
}
"""Published figures and protocols of captions, by what is measured."""

TEXTS = {
    "names": (
        "bigram 2.476, MLP 2.105, WaveNet-style 1.994 (makemore lectures)",
        "names, shuffled with seed 42, 80/10/10, ends included, nats a character, exact",
    ),
    "shakespeare": (
        "nanoGPT 1.4697, on a CPU 1.88 (its README); Witten-Bell 4-grams 1.669, bz2 1.662",
        "tinyshakespeare, trained on nine tenths, blocks of 256 of the last one, every character from a cold "
        "start, nats each, exact",
    ),
}
"""Published figures and protocols of texts."""

BINARISED = "MNIST 28x28, dynamically binarised, 10,000 test images"

FOLDED = {"widths": (64, 128), "depths": (1, 2), "patch": 2}
CIFAR = {"widths": (64, 192), "depths": (1, 3), "patch": 2, "embedding": 256, "lr": 1e-3}
FEW_VALID = DataOptions(valid_fraction=0.05)
TOLD = DataOptions(captions="templates")
CIFAR_TOLD = {"widths": (96, 192), "depths": (2, 3), "embedding": 256, "lr": 1e-3}

RECIPES: Mapping[str, Recipe] = {
    **{f"independent-{n}": _counted(n, "baseline.independent", COUNTED[n][0]) for n in COUNTED},
    **{f"chow-liu-{n}": _counted(n, "baseline.chow_liu", COUNTED[n][1]) for n in COUNTED},
    **{f"made-{n}": _learned(n, "ar.made", orders=4) for n in COUNTED},
    "mnist-made": Recipe(
        _mnist("ar.made", "40m", hidden=(8000,), batch_size=512),
        AtMost(84.9),
        "MADE with one layer of 8,000 units 84.87 (pytorch-generative)",
        f"{BINARISED}, exact",
    ),
    "mnist-pixelcnn": Recipe(
        _mnist("ar.pixelcnn", "27m"),
        AtMost(83.5),
        "gated PixelCNN 81.50, PixelCNN 81.45 (pytorch-generative)",
        f"{BINARISED}, exact",
    ),
    "mnist-pixelsnail": Recipe(
        _mnist("ar.pixelsnail", "80m"),
        AtMost(83.0),
        "PixelSNAIL 78.61 (pytorch-generative)",
        f"{BINARISED}, exact",
    ),
    "mnist-vae": Recipe(
        _mnist("vae.gaussian", "30m", hidden=200, latent_dim=50),
        AtMost(87.5),
        "VAE 784-200-200-50 with one stochastic layer 86.76 (Burda et al. 2016, arXiv:1509.00519)",
        f"{BINARISED}, bound with 5,000 importance samples",
        scoring={"importance_samples": 5000},
    ),
    "mnist-iwae": Recipe(
        _mnist("vae.iwae", "85m", samples=50, warm=0.4, hidden=200, latent_dim=50, batch_size=64),
        AtMost(85.6),
        "IWAE with k = 50 and one stochastic layer 84.78 (Burda et al. 2016, arXiv:1509.00519)",
        f"{BINARISED}, bound with 5,000 importance samples",
        scoring={"importance_samples": 5000},
    ),
    "mnist-vae-hierarchical": Recipe(
        _mnist("vae.hierarchical", "90m", batch_size=128),
        AtMost(84.5),
        "VAE with two stochastic layers 85.33, IWAE-50 with two 82.90 (Burda et al. 2016, arXiv:1509.00519)",
        f"{BINARISED}, bound with 200 importance samples",
        scoring={"importance_samples": 200},
    ),
    "mnist-vae-flow": Recipe(
        _mnist("vae.flow", "60m"),
        AtMost(84.5),
        "VAE 81.31, with IAF and MAF 79.95, 1,000 samples (Durkan et al. 2019, arXiv:1906.04032)",
        f"{BINARISED}, bound with 1,000 importance samples",
        scoring={"importance_samples": 1000},
    ),
    "mnist-maf": Recipe(
        FitConfig(
            "flow.maf",
            "mnist",
            {"batch_size": 100},
            TrainConfig(budget="40m"),
            DataOptions(alpha=1e-6),
            conditional="no",
        ),
        AtMost(1273.0),
        "MADE 1393.7, RealNVP 1279.8, MAF of five layers 1272.7 (reimplementations of arXiv:1705.07057)",
        "MNIST 28x28, dequantised by 256, logit space with alpha 1e-6, 10,000 test images, exact",
        space="view",
    ),
    "mnist-rbm": Recipe(
        _mnist("energy.rbm", "60m", lr=1e-3),
        AtMost(88.0),
        "RBM with 500 hidden units and CD-25 86.34 (Salakhutdinov & Murray 2008)",
        f"{BINARISED}, annealed importance sampling",
        scoring={"temperatures": 4000},
    ),
    "mnist-diffusion": Recipe(
        FitConfig("diffusion.ddpm", "mnist", FOLDED, TrainConfig(budget="60m", compile=True)),
        AtMost(4.45),
        "own runs of ten minutes on one thread: WGAN-GP 4.45, VAE 47.8, real data 0.74",
        "MNIST 28x28, by class, 2,048 samples against 2,048 test items, features of a classifier of digits",
        figure="frechet",
    ),
    "cifar-diffusion": Recipe(
        FitConfig(
            "diffusion.ddpm", "cifar10-jpeg", CIFAR, TrainConfig(budget="100m", compile=True), FEW_VALID
        ),
        AtLeast(0.6),
        "no figure at hand",
        "CIFAR-10 (JPEG copy), 2,048 samples of classes, how often a classifier of real images names them",
        scoring={"guidance_scale": 1.5, "sampling_steps": 20},
        figure="class_accuracy",
    ),
    "mnist-told": Recipe(
        FitConfig("diffusion.latent", "mnist", {}, TrainConfig(budget="15m", compile=True), TOLD),
        AtLeast(0.9),
        "no figure at hand",
        "MNIST, 2,048 samples of captions in new words, how often a classifier of images names the digit",
        scoring={"guidance_scale": 2.0, "sampling_steps": 20},
        figure="class_accuracy",
    ),
    "cifar-told": Recipe(
        FitConfig(
            "diffusion.latent",
            "cifar10-jpeg",
            CIFAR_TOLD,
            TrainConfig(budget="58m", compile=True),
            DataOptions(captions="templates", valid_fraction=0.05),
        ),
        AtLeast(0.6),
        "no figure at hand",
        "CIFAR-10 (JPEG copy), 2,048 samples of captions in new words, how often class and colour are found",
        scoring={"guidance_scale": 3.0, "sampling_steps": 20},
        figure="caption_accuracy",
    ),
    "names-lstm": _text("seq.lstm", "names", 2.02, TrainConfig(budget="5m")),
    "names-gpt": _text("seq.gpt", "names", 1.97, TrainConfig(budget="10m")),
    "shakespeare-gpt-short": _text(
        "seq.gpt", "shakespeare", 1.60, TrainConfig(budget="10m", compile=True, refit=True)
    ),
    "shakespeare-gpt": _text(
        "seq.gpt",
        "shakespeare",
        1.4697,
        TrainConfig(budget="60m", compile=True, refit=True),
        **{"width": 384, "heads": 6, "groups": 6, "batch_size": 32, "dropout": 0.2},
    ),
    "captions-lstm": _captions("seq.lstm", AtMost(49.0), budget="26m", layers=1, batch_size=64, lr=2e-3),
    "captions-vae": _captions("seq.vae", AtMost(48.85), budget="26m", symbol_dropout=0, free_bits=0.17),
    "captions-lstm-inputless": _captions(
        "seq.lstm", AtMost(86.0), layers=1, batch_size=64, lr=2e-3, symbol_dropout=1
    ),
    "captions-vae-inputless": _captions("seq.vae", AtMost(75.9), symbol_dropout=1),
    "captions-of-a-subject": _captions(
        "seq.lstm", AtLeast(0.9), "class_accuracy", layers=1, batch_size=64, lr=2e-3
    ),
    "multi30k-transformer": _translation("seq2seq.transformer", 36.5, "30m"),
    "multi30k-rnn": _translation("seq2seq.rnn", 29.0, "20m"),
}
