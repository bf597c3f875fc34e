"""The features that metrics are computed on: given weights, else a classifier of the labels, else PCA."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import Tensor
from torch.nn import functional as F

from genloom.core.errors import DataError
from genloom.core.randomness import generator, key
from genloom.modalities import homes
from genloom.modalities.base import Dataset, Split
from genloom.modalities.images import Images
from genloom.nn.classifier import Classifier
from genloom.nn.pretrained import digest, load_pretrained
from genloom.train.checkpoint import write_atomically
from genloom.train.loop import bf16_pays

RECIPE = 3
COMPONENTS = 64
LEARNT_FROM = 2**17
"""Training items at most that principal components are taken from."""

STEPS = {"small": 800, "large": 1500}
BATCH = 128


@dataclass(frozen=True)
class Features:
    """A fixed map from items to numbers.

    Args:
        name: what it is, with the digest of its weights: figures on other features do not compare.
        extract: items (n, ...) to features (n, F) float64.
        probs: items to class probabilities (n, classes) float64; None without a classifier.
        accuracy: the classifier's accuracy on the validation split.
    """

    name: str
    preprocessing: str
    extract: Callable[[Tensor], Tensor]
    probs: Callable[[Tensor], Tensor] | None = None
    accuracy: float | None = None


def features_for(dataset: Dataset, file: Path | None = None) -> Features:
    """Return the best features the data allow, trained once and cached by recipe and data.

    Args:
        file: safetensors to use instead: a classifier exported before (``features.safetensors`` of a
            comparison), or the weights of Inception-v3 or DINOv2 for images.

    Raises:
        DataError: the file does not fit the data.
    """
    if file is not None and not _holds_classifier(file):
        return _pretrained_features(dataset, file)
    if dataset.train.labels is not None and len(dataset.classes) > 1:
        return _classifier_features(dataset, file)
    if file is not None:
        raise DataError(f"{file} holds a classifier of labels, and {dataset.name} data have none")
    return _pca_features(dataset)


def _holds_classifier(file: Path) -> bool:
    """Tell a classifier's weights from other networks' by a name that only it has."""
    if not file.is_file():
        raise DataError(f"no feature weights at {file}")
    if file.suffix != ".safetensors":
        return False
    try:
        with safe_open(file, framework="pt") as weights:
            return "head.weight" in weights.keys()  # noqa: SIM118
    except SafetensorError as error:
        raise DataError(f"{file} is damaged ({error}): name another file") from error


def _pretrained_features(dataset: Dataset, file: Path) -> Features:
    if not isinstance(dataset.modality, Images):
        raise DataError(f"{file} holds features of images, and {dataset.name} are {dataset.modality.name}")
    network, top = load_pretrained(file), dataset.modality.levels - 1
    return Features(
        network.name,
        network.preprocessing,
        lambda items: torch.cat([network.extract(part.float() / top) for part in items.split(64)]),
    )


def export(dataset: Dataset, folder: Path) -> None:
    """Copy the cached classifier weights of a data set to ``folder/features.safetensors``."""
    path = _cache(dataset)
    if path.exists():
        write_atomically(folder / "features.safetensors", path.read_bytes())


def _cache(dataset: Dataset) -> Path:
    shape = "x".join(map(str, _shape(dataset)))
    return homes.cache() / "features" / f"classifier-{RECIPE}-{shape}-{dataset.fingerprint}.safetensors"


def _classifier_features(dataset: Dataset, file: Path | None) -> Features:
    shift, scale = _scaling(dataset)
    shape = _shape(dataset)
    with torch.random.fork_rng(devices=[]):
        network = Classifier(shape, len(dataset.classes))
        weights = _weights(dataset, network, file, shift, scale)
    try:
        network.load_state_dict(weights)
    except RuntimeError as error:
        raise DataError(f"the feature weights do not fit {dataset.name} data (items {shape})") from error
    network.eval().requires_grad_(False)

    def prepare(items: Tensor) -> Tensor:
        return ((dataset.modality.features(items) - shift) / scale).float().view(-1, *shape)

    def in_batches(function: Callable[[Tensor], Tensor], items: Tensor) -> Tensor:
        with torch.no_grad():
            return torch.cat([function(prepare(part)).double() for part in items.split(512)])

    return Features(
        name=f"classifier:{digest(weights)}",
        preprocessing="scaled by the training split",
        extract=lambda items: in_batches(network.features, items),
        probs=lambda items: in_batches(lambda x: network(x).softmax(-1), items),
        accuracy=_accuracy(lambda x: in_batches(network, x), dataset.valid),
    )


def _shape(dataset: Dataset) -> tuple[int, ...]:
    """Return the shape of an item's raw numbers; that of an image is its own."""
    items = dataset.train.items[:1]
    return tuple((items if items.dim() == 4 else dataset.modality.features(items)).shape[1:])


def _scaling(dataset: Dataset) -> tuple[Tensor, Tensor]:
    """Return shift and scale that give images one overall scale and columns one each."""
    raw = dataset.modality.features(dataset.train.at_most(LEARNT_FROM).items)
    if dataset.train.items.dim() == 4:
        return raw.mean(), raw.std().clamp_min(1e-6)
    spread = raw.std(0)
    return raw.mean(0), torch.where(spread > 1e-6, spread, 1.0)


def _weights(
    dataset: Dataset, network: Classifier, file: Path | None, shift: Tensor, scale: Tensor
) -> Mapping[str, Tensor]:
    if file is not None:
        return _read(file)
    cache = _cache(dataset)
    if not cache.exists():
        _initialise(network)
        _train(dataset, network, shift, scale)
        cache.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(cache, save(dict(network.state_dict())))
    return _read(cache)


def _read(file: Path) -> Mapping[str, Tensor]:
    try:
        return load_file(file)
    except SafetensorError as error:
        raise DataError(f"{file} is damaged ({error}): delete it, or name another file") from error


def _initialise(network: Classifier) -> None:
    """Draw the first weights from a fixed seed."""
    torch.manual_seed(key("features", RECIPE))
    for layer in network.modules():
        if isinstance(layer, torch.nn.Conv2d | torch.nn.Linear):
            layer.reset_parameters()


def _train(dataset: Dataset, network: Classifier, shift: Tensor, scale: Tensor) -> None:
    """Train on the labels with one-cycle Adam and shifts of at most one pixel for images."""
    items, labels, shape = dataset.train.items, dataset.train.labels, _shape(dataset)
    assert labels is not None
    steps = STEPS["small"] if math.prod(shape) <= 256 else STEPS["large"]
    optimiser = torch.optim.AdamW(network.parameters(), weight_decay=0.01, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 3e-3, total_steps=steps)
    source = generator("features", RECIPE, dataset.fingerprint)
    for _ in range(steps):
        index = torch.randint(len(items), (BATCH,), generator=source)
        x = ((dataset.modality.features(items[index]) - shift) / scale).float().view(BATCH, *shape)
        if x.dim() == 4:
            dy, dx = torch.randint(-1, 2, (2,), generator=source).tolist()
            x = x.roll((dy, dx), (2, 3)).contiguous(memory_format=torch.channels_last)
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16_pays() and x.dim() == 4):
            logits = network(x)
        loss = F.cross_entropy(logits.float(), labels[index], label_smoothing=0.05)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()


def _accuracy(logits: Callable[[Tensor], Tensor], split: Split) -> float | None:
    if split.labels is None or len(split) == 0:
        return None
    return float((logits(split.items).argmax(-1) == split.labels).double().mean())


def _pca_features(dataset: Dataset) -> Features:
    """Project on the leading principal components of the training split, standardised columns for tables."""
    shift, scale = _scaling(dataset)

    def prepare(items: Tensor) -> Tensor:
        return ((dataset.modality.features(items) - shift) / scale).double().flatten(1)

    train = prepare(dataset.train.at_most(LEARNT_FROM).items)
    centre = train.mean(0)
    components = torch.linalg.eigh((train - centre).T @ (train - centre)).eigenvectors.flip(1)[:, :COMPONENTS]
    return Features(
        name=f"pca{components.shape[1]}:{digest({'components': components, 'centre': centre})}",
        preprocessing="scaled by the training split",
        extract=lambda items: (prepare(items) - centre) @ components,
    )
