"""Feature networks trained elsewhere, read from safetensors files that the user has."""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from genloom.core.errors import DataError
from genloom.nn.dinov2 import NAMES, Dinov2, sizes_of
from genloom.nn.inception import CLASSES, InceptionV3, unused

LIMIT = 1_500_000_000
BATCH = 32
PICKLES = {".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".bin"}
Network = InceptionV3 | Dinov2


@dataclass(frozen=True)
class Pretrained:
    """A network that turns images into features.

    Args:
        name: which network, with the digest of its weights: figures on other features do not compare.
        extract: images (B, C, H, W) float in [0, 1], C 1 or 3, to features (B, F) float64; grey is repeated.
        preprocessing: what happens to the images first.
    """

    name: str
    extract: Callable[[Tensor], Tensor]
    preprocessing: str


def load_pretrained(path: Path) -> Pretrained:
    """Return the Inception-v3 or DINOv2 network whose weights a safetensors file holds.

    Raises:
        DataError: the file is missing, too large, a pickle, damaged, or of another network.
    """
    shapes = _shapes(path)
    try:
        name, network = _recognise(shapes)
        _fit(network, shapes)
    except DataError as error:
        raise DataError(f"{path}: {error}") from error
    weights = _read(path, _wanted(network))
    network.load_state_dict(weights, strict=True, assign=True)
    network.eval().requires_grad_(False)

    def extract(images: Tensor) -> Tensor:
        with torch.no_grad():
            return torch.cat([network.features(part.float()).double() for part in _rgb(images).split(BATCH)])

    return Pretrained(f"{name}:{digest(weights)}", extract, network.PREPROCESSING)


def digest(tensors: Mapping[str, Tensor]) -> str:
    """Return a short hash of named tensors, whatever their order."""
    total = hashlib.blake2b(json.dumps(sorted(tensors)).encode(), digest_size=6)
    for name in sorted(tensors):
        total.update(tensors[name].contiguous().numpy().tobytes())
    return total.hexdigest()


def _shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Return the names and shapes in the file's header; the tensors themselves are not read."""
    if path.suffix.lower() in PICKLES:
        raise DataError(f"{path} may be a pickle, which genloom never reads: {_conversion(path)}")
    if not path.is_file():
        raise DataError(f"no weights at {path}")
    if path.stat().st_size > LIMIT:
        raise DataError(f"{path} is larger than {LIMIT / 1e9:g} GB, as no network known to genloom is")
    try:
        with safe_open(path, framework="pt") as file:
            return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise DataError(f"{path} is not a sound safetensors file ({error})") from error


def _conversion(path: Path) -> str:
    return (
        'if you trust it, convert it with  python -c "import torch; from safetensors.torch import save_file; '
        f"save_file({{k: v.clone().contiguous() for k, v in torch.load({str(path)!r}, weights_only=True)"
        f'.items()}}, {str(path.with_suffix(".safetensors"))!r})"'
    )


def _recognise(shapes: Mapping[str, Sequence[int]]) -> tuple[str, Network]:
    """Return the name and the network, still without storage, that the weights' names tell of."""
    with torch.device("meta"):
        if "Conv2d_1a_3x3.conv.weight" in shapes:
            outputs = shapes.get("fc.bias", (0,))[0]
            for variant, classes in CLASSES.items():
                if classes == outputs:
                    return f"inception-v3-{variant}", InceptionV3(variant)
            raise DataError(f"an Inception-v3 with {outputs} outputs, not 1008 (FID) or 1000 (torchvision)")
        if "cls_token" in shapes and "patch_embed.proj.weight" in shapes:
            sizes = sizes_of(shapes)
            name = NAMES[sizes.width, sizes.depth] + (f"-reg{sizes.registers}" if sizes.registers else "")
            return f"dinov2-{name}", Dinov2(sizes)
    raise DataError(f"neither Inception-v3 nor DINOv2 has weights named {', '.join(sorted(shapes)[:3])} …")


def _wanted(network: Network) -> dict[str, tuple[int, ...]]:
    return {name: tuple(x.shape) for name, x in network.state_dict().items() if not unused(name)}


def _fit(network: Network, shapes: Mapping[str, Sequence[int]]) -> None:
    """Raise a DataError unless the weights are just the network's, in their shapes."""
    wanted = _wanted(network)
    held = {name: tuple(shape) for name, shape in shapes.items() if not unused(name)}
    for problem, names in (
        ("lack", wanted.keys() - held.keys()),
        ("have unknown", held.keys() - wanted.keys()),
    ):
        if names:
            raise DataError(f"the weights {problem} {', '.join(sorted(names)[:3])} ({len(names)} in all)")
    for name, shape in wanted.items():
        if held[name] != shape:
            raise DataError(f"{name} has the shape {held[name]}, not {shape}")


def _read(path: Path, names: Mapping[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """Return copies of the named tensors in single precision, finite."""
    with safe_open(path, framework="pt") as file:
        raw = {name: file.get_tensor(name) for name in names}
        weights = {name: tensor.to(torch.float32, copy=True) for name, tensor in raw.items()}
    for name, tensor in raw.items():
        if not tensor.is_floating_point() or not weights[name].isfinite().all():
            raise DataError(
                f"{path}: {name} holds numbers that are not finite floats: export the weights again"
            )
    return weights


def _rgb(images: Tensor) -> Tensor:
    """Return images with three channels, the same numbers in each if there was one."""
    if images.dim() != 4 or images.shape[1] not in (1, 3):
        raise DataError(
            f"pretrained features are of grey or RGB images (B, 1 or 3, H, W), not {tuple(images.shape)}"
        )
    if images.numel() and not (images.min() >= 0 and images.max() <= 1):
        raise DataError("pretrained features are of images in [0, 1]: scale and clamp them first")
    return images.expand(-1, 3, -1, -1)
