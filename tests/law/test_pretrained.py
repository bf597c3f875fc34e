"""Pretrained feature networks: published names and shapes, independent formulas, and files refused.

Names, shapes and totals are those of torchvision's Inception-v3, of its port of inception-2015-12-05, and of
the DINOv2 checkpoints; no published weights are needed.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from genloom.core.errors import DataError
from genloom.nn import pretrained
from genloom.nn.dinov2 import Attention, Block, Dinov2, Sizes
from genloom.nn.dinov2 import prepare as prepare_dinov2
from genloom.nn.inception import InceptionV3
from genloom.nn.inception import prepare as prepare_inception
from genloom.nn.pretrained import Pretrained, load_pretrained

SQUARES = "1x1 5x5_1 5x5_2 3x3dbl_1 3x3dbl_2 3x3dbl_3 _pool"
FACTORISED = "1x1 7x7_1 7x7_2 7x7_3 7x7dbl_1 7x7dbl_2 7x7dbl_3 7x7dbl_4 7x7dbl_5 _pool"
EXPANDED = "1x1 3x3_1 3x3_2a 3x3_2b 3x3dbl_1 3x3dbl_2 3x3dbl_3a 3x3dbl_3b _pool"
BLOCKS = {
    "Mixed_5b": SQUARES,
    "Mixed_5c": SQUARES,
    "Mixed_5d": SQUARES,
    "Mixed_6a": "3x3 3x3dbl_1 3x3dbl_2 3x3dbl_3",
    "Mixed_6b": FACTORISED,
    "Mixed_6c": FACTORISED,
    "Mixed_6d": FACTORISED,
    "Mixed_6e": FACTORISED,
    "Mixed_7a": "3x3_1 3x3_2 7x7x3_1 7x7x3_2 7x7x3_3 7x7x3_4",
    "Mixed_7b": EXPANDED,
    "Mixed_7c": EXPANDED,
}
STEM = ("Conv2d_1a_3x3", "Conv2d_2a_3x3", "Conv2d_2b_3x3", "Conv2d_3b_1x1", "Conv2d_4a_3x3")
CONVOLUTIONS = {
    "Conv2d_1a_3x3": (32, 3, 3, 3),
    "Conv2d_4a_3x3": (192, 80, 3, 3),
    "Mixed_5b.branch5x5_2": (64, 48, 5, 5),
    "Mixed_5b.branch_pool": (32, 192, 1, 1),
    "Mixed_5d.branch3x3dbl_3": (96, 96, 3, 3),
    "Mixed_6a.branch3x3": (384, 288, 3, 3),
    "Mixed_6b.branch7x7_2": (128, 128, 1, 7),
    "Mixed_6b.branch7x7_3": (192, 128, 7, 1),
    "Mixed_6d.branch7x7dbl_2": (160, 160, 7, 1),
    "Mixed_6e.branch7x7dbl_5": (192, 192, 1, 7),
    "Mixed_7a.branch3x3_2": (320, 192, 3, 3),
    "Mixed_7a.branch7x7x3_4": (192, 192, 3, 3),
    "Mixed_7b.branch3x3_2a": (384, 384, 1, 3),
    "Mixed_7c.branch3x3dbl_1": (448, 2048, 1, 1),
    "Mixed_7c.branch3x3dbl_3b": (384, 384, 3, 1),
}
MAPS = {
    "Conv2d_1a_3x3": (32, 149),
    "Conv2d_2a_3x3": (32, 147),
    "Conv2d_2b_3x3": (64, 147),
    "Conv2d_3b_1x1": (80, 73),
    "Conv2d_4a_3x3": (192, 71),
    "Mixed_5b": (256, 35),
    "Mixed_5d": (288, 35),
    "Mixed_6a": (768, 17),
    "Mixed_6e": (768, 17),
    "Mixed_7a": (1280, 8),
    "Mixed_7c": (2048, 8),
}
# The convolutions that end each branch, in the order of their channels; the unnamed are the maps, pooled.
ORDER = {
    "Mixed_5b": {"1x1": 64, "5x5_2": 64, "3x3dbl_3": 96, "_pool": 32},
    "Mixed_6a": {"3x3": 384, "3x3dbl_3": 96, "": 288},
    "Mixed_6b": {"1x1": 192, "7x7_3": 192, "7x7dbl_5": 192, "_pool": 192},
    "Mixed_7a": {"3x3_2": 320, "7x7x3_4": 192, "": 768},
    "Mixed_7c": {
        "1x1": 320,
        "3x3_2a": 384,
        "3x3_2b": 384,
        "3x3dbl_3a": 384,
        "3x3dbl_3b": 384,
        "_pool": 192,
    },
}
BLOCK = {
    "norm1.weight": (384,),
    "norm1.bias": (384,),
    "attn.qkv.weight": (1152, 384),
    "attn.qkv.bias": (1152,),
    "attn.proj.weight": (384, 384),
    "attn.proj.bias": (384,),
    "ls1.gamma": (384,),
    "norm2.weight": (384,),
    "norm2.bias": (384,),
    "mlp.fc1.weight": (1536, 384),
    "mlp.fc1.bias": (1536,),
    "mlp.fc2.weight": (384, 1536),
    "mlp.fc2.bias": (384,),
    "ls2.gamma": (384,),
}


def randomise(network: nn.Module, seed: int = 0) -> None:
    """Draw every weight, and the statistics of normalisations, at scales that keep signals alive."""
    source = torch.Generator().manual_seed(seed)
    for name, x in network.state_dict().items():
        if x.dim() > 1:
            x.normal_(0, (2 / x[0].numel()) ** 0.5, generator=source)
        elif x.is_floating_point():
            low = 0.5 if name.endswith(("var", "gamma", "weight")) else 0.0
            x.uniform_(low, low + 0.5, generator=source)


def published(network: nn.Module) -> dict[str, Tensor]:
    """Return randomised weights as files hold them, without the counters of old exports."""
    randomise(network)
    return {k: v for k, v in network.state_dict().items() if not k.endswith("num_batches_tracked")}


@pytest.fixture(scope="module")
def inception() -> InceptionV3:
    network = InceptionV3("fid").eval().requires_grad_(False)
    randomise(network)
    return network


@pytest.fixture(scope="module")
def inception_file(inception: InceptionV3, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "inception.safetensors"
    save_file(published(inception) | {"AuxLogits.fc.bias": torch.zeros(1008)}, path)
    return path


@pytest.fixture(scope="module")
def dinov2_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "dinov2.safetensors"
    save_file(published(Dinov2(Sizes(384, 12, registers=4, grid=16))), path)
    return path


def images(*shape: int) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    ("variant", "outputs", "total"), [("torchvision", 1000, 23_834_568), ("fid", 1008, 23_850_960)]
)
def test_inception_has_the_published_weights(variant: str, outputs: int, total: int) -> None:
    with torch.device("meta"):
        network = InceptionV3(variant)
    units = [f"{block}.branch{unit}" for block, names in BLOCKS.items() for unit in names.split()]
    inside = ("conv.weight", "bn.weight", "bn.bias", "bn.running_mean", "bn.running_var")
    expected = {f"{unit}.{name}" for unit in (*STEM, *units) for name in (*inside, "bn.num_batches_tracked")}
    weights = network.state_dict()
    assert set(weights) == expected | {"fc.weight", "fc.bias"}
    assert sum(x.numel() for x in network.parameters()) == total
    assert weights["fc.weight"].shape == (outputs, 2048)
    assert {name: tuple(weights[f"{name}.conv.weight"].shape) for name in CONVOLUTIONS} == CONVOLUTIONS
    assert {layer.eps for layer in network.modules() if isinstance(layer, nn.BatchNorm2d)} == {0.001}


def test_inception_maps_have_the_sizes_of_the_paper(inception: InceptionV3) -> None:
    seen: dict[str, Tensor] = {}
    hooks = [
        inception.get_submodule(name).register_forward_hook(
            lambda _layer, _x, out, name=name: seen.update({name: out})
        )
        for name in MAPS
    ]
    logits = inception(images(1, 3, 20, 30))
    for hook in hooks:
        hook.remove()
    shapes = {name: tuple(maps.shape[1:]) for name, maps in seen.items()}
    assert shapes == {name: (width, side, side) for name, (width, side) in MAPS.items()}
    torch.testing.assert_close(logits, inception.fc(seen["Mixed_7c"].flatten(2).mean(2)))


@pytest.mark.parametrize("block", ORDER)
def test_inception_branches_stand_in_the_published_order(block: str) -> None:
    mixed = InceptionV3("fid").get_submodule(block).eval()
    inputs = max(x.shape[1] for name, x in mixed.state_dict().items() if name.endswith("conv.weight"))
    for x in mixed.parameters():
        x.data.zero_()
    expected: list[float] = []
    for mark, (name, width) in enumerate(ORDER[block].items(), 1):
        if name:
            mixed.get_parameter(f"branch{name}.bn.bias").data.fill_(mark)
        expected += [mark if name else 0.5] * width
    with torch.no_grad():
        out = mixed(torch.full((1, inputs, 5, 5), 0.5))
    assert out[0, :, 1, 1].tolist() == expected


def pooled(x: np.ndarray, reduce: Callable[[np.ndarray], float], padded: bool) -> np.ndarray:
    """Reduce every 3 x 3 window of (H, W), of which the part outside counts as zeros or not at all."""
    high, wide = x.shape
    border = np.pad(x, 1, constant_values=0.0 if padded else np.nan)
    windows = [[border[i : i + 3, j : j + 3] for j in range(wide)] for i in range(high)]
    return np.array([[reduce(w[~np.isnan(w)]) for w in row] for row in windows])


@pytest.mark.parametrize("variant", ["fid", "torchvision"])
def test_inception_pools_as_its_variant_does(variant: str) -> None:
    x = torch.randn(1, 1, 4, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) - 3
    with torch.device("meta"):
        network = InceptionV3(variant)
    for block in [name for name, units in BLOCKS.items() if "_pool" in units]:
        largest = variant == "fid" and block == "Mixed_7c"
        expected = pooled(x[0, 0].numpy(), np.max if largest else np.mean, padded=variant == "torchvision")
        np.testing.assert_allclose(network.get_submodule(block).pool(x)[0, 0], expected, rtol=1e-12)


def linear_taps(old: int, new: int) -> np.ndarray:
    """Return the matrix (new, old) of linear interpolation between pixel centres, clamped at the borders."""
    at = np.clip((np.arange(new) + 0.5) * old / new - 0.5, 0, old - 1)
    return np.maximum(0, 1 - np.abs(at[:, None] - np.arange(old)))


@pytest.mark.parametrize("shape", [(8, 8), (28, 32), (640, 310)])
def test_inception_resizes_bilinearly(shape: tuple[int, int]) -> None:
    x = images(1, 3, *shape).double()
    down, across = (linear_taps(side, 299) for side in shape)
    np.testing.assert_allclose(prepare_inception(x)[0], 2 * (down @ x[0].numpy() @ across.T) - 1, atol=1e-12)


@pytest.mark.parametrize(
    ("sizes", "total"),
    [
        (Sizes(384, 12), 22_056_576),
        (Sizes(384, 12, registers=4), 22_058_112),
        (Sizes(768, 12), 86_580_480),
        (Sizes(1024, 24), 304_368_640),
    ],
)
def test_dinov2_has_the_published_weights(sizes: Sizes, total: int) -> None:
    with torch.device("meta"):
        network = Dinov2(sizes)
    width, factor = sizes.width, sizes.width / 384
    expected = {
        "cls_token": (1, 1, width),
        "pos_embed": (1, 1370, width),
        "mask_token": (1, width),
        "patch_embed.proj.weight": (width, 3, 14, 14),
        "patch_embed.proj.bias": (width,),
        "norm.weight": (width,),
        "norm.bias": (width,),
    }
    expected |= {"register_tokens": (1, 4, width)} if sizes.registers else {}
    for i in range(sizes.depth):
        expected |= {f"blocks.{i}.{k}": tuple(int(factor * n) for n in shape) for k, shape in BLOCK.items()}
    assert {name: tuple(x.shape) for name, x in network.state_dict().items()} == expected
    assert sum(x.numel() for x in network.parameters()) == total


def test_attention_equals_torchs() -> None:
    ours = Attention(192).double()
    randomise(ours)
    oracle = nn.MultiheadAttention(192, 3, batch_first=True, dtype=torch.float64)
    names = {"in_proj_weight": "qkv.weight", "in_proj_bias": "qkv.bias"}
    names |= {"out_proj.weight": "proj.weight", "out_proj.bias": "proj.bias"}
    oracle.load_state_dict({theirs: ours.state_dict()[name] for theirs, name in names.items()})
    x = images(2, 7, 192).double()
    torch.testing.assert_close(ours(x), oracle(x, x, x)[0], rtol=1e-12, atol=1e-12)


def oracle_layer(block: Block, width: int) -> nn.Module:
    """Return torch's own transformer layer with the block's weights, the scales folded into them."""
    held = dict(block.state_dict())
    gamma1, gamma2 = held["ls1.gamma"], held["ls2.gamma"]
    weights = {
        f"{norm}.{kind}": held[f"{norm}.{kind}"] for norm in ("norm1", "norm2") for kind in ("weight", "bias")
    }
    for kind in ("weight", "bias"):
        fold = (lambda g: g[:, None]) if kind == "weight" else (lambda g: g)
        weights[f"self_attn.in_proj_{kind}"] = held[f"attn.qkv.{kind}"]
        weights[f"self_attn.out_proj.{kind}"] = held[f"attn.proj.{kind}"] * fold(gamma1)
        weights[f"linear1.{kind}"] = held[f"mlp.fc1.{kind}"]
        weights[f"linear2.{kind}"] = held[f"mlp.fc2.{kind}"] * fold(gamma2)
    layer = nn.TransformerEncoderLayer(
        width,
        width // 64,
        4 * width,
        0.0,
        "gelu",
        1e-6,
        batch_first=True,
        norm_first=True,
        dtype=torch.float64,
    )
    layer.load_state_dict(weights)
    return layer


@pytest.mark.parametrize("registers", [0, 3])
def test_dinov2_equals_torchs_transformer(registers: int) -> None:
    network = Dinov2(Sizes(128, 2, registers, grid=2)).double()
    randomise(network)
    pixels = images(2, 3, 28, 28).double()
    cut = pixels.unfold(2, 14, 14).unfold(3, 14, 14)
    kernel, bias = network.patch_embed["proj"].weight, network.patch_embed["proj"].bias
    patches = torch.einsum("bchwij,dcij->bhwd", cut, kernel).flatten(1, 2) + bias
    tokens = torch.cat([network.cls_token.expand(2, -1, -1), patches], 1) + network.pos_embed
    if network.register_tokens is not None:
        tokens = torch.cat([tokens, network.register_tokens.expand(2, -1, -1)], 1)
    for block in network.blocks:
        tokens = oracle_layer(block, 128)(tokens)
    expected = nn.functional.layer_norm(tokens[:, 0], (128,), network.norm.weight, network.norm.bias, 1e-6)
    torch.testing.assert_close(network(pixels), expected, rtol=1e-10, atol=1e-10)


def cubic_taps(old: int, new: int, scale: float) -> np.ndarray:
    """Return the matrix (new, old) of Keys's cubic convolution with a = -0.75, edges repeated."""
    at = (np.arange(new) + 0.5) / scale - 0.5
    taps = np.zeros((new, old))
    for row, centre in enumerate(at):
        for k in range(int(np.floor(centre)) - 1, int(np.floor(centre)) + 3):
            d = abs(centre - k)
            near = (1.25 * d - 2.25) * d * d + 1
            far = ((-0.75 * d + 3.75) * d - 6) * d + 3
            taps[row, min(max(k, 0), old - 1)] += near if d <= 1 else far
    return taps


def test_positions_are_interpolated_as_the_published_networks_were_trained() -> None:
    network = Dinov2(Sizes(64, 1, grid=9)).double()
    randomise(network)
    grid = network.pos_embed[0, 1:].detach().view(9, 9, 64).numpy()
    down, across = cubic_taps(9, 4, 4.1 / 9), cubic_taps(9, 6, 6.1 / 9)
    expected = np.einsum("ih,jw,hwd->ijd", down, across, grid).reshape(24, 64)
    got = network.positions(4, 6).detach()
    np.testing.assert_allclose(got[0, 1:], expected, atol=1e-12)
    assert torch.equal(got[:, 0], network.pos_embed[:, 0])


@pytest.mark.parametrize("registers", [0, 2])
def test_positions_of_the_trained_grid_stay(registers: int) -> None:
    network = Dinov2(Sizes(64, 1, registers, grid=5))
    assert torch.equal(network.positions(5, 5), network.pos_embed)
    assert network.positions(3, 4).shape == (1, 13, 64)


@pytest.mark.parametrize("shape", [(8, 8), (28, 32), (500, 310)])
def test_dinov2_resizes_as_pillow_does(shape: tuple[int, int]) -> None:
    x = images(3, *shape)
    mean, std = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    pictures = [
        Image.fromarray(channel.numpy()).resize((224, 224), Image.Resampling.BICUBIC) for channel in x
    ]
    expected = [(np.clip(p, 0, 1) - m) / s for p, m, s in zip(pictures, mean, std, strict=True)]
    np.testing.assert_allclose(prepare_dinov2(x[None].double())[0], expected, atol=2e-6)


def check_features(features: Pretrained, width: int) -> tuple[Tensor, Tensor]:
    """Check the shape, that grey equals RGB, that images are taken one by one, and that they matter."""
    grey = images(2, 1, 24, 20)
    rgb = grey.repeat(1, 3, 1, 1)
    got = features.extract(grey)
    assert got.shape == (2, width)
    assert got.dtype == torch.float64
    assert got.isfinite().all()
    torch.testing.assert_close(features.extract(rgb.flip(0)).flip(0), got, rtol=1e-4, atol=1e-5)
    assert (got[0] - got[1]).norm() > 1e-3 * got.norm()
    return rgb, got


def test_inception_is_loaded(inception: InceptionV3, inception_file: Path) -> None:
    features = load_pretrained(inception_file)
    assert features.name.startswith("inception-v3-fid:")
    assert "299x299" in features.preprocessing
    rgb, got = check_features(features, 2048)
    torch.testing.assert_close(got, inception.features(rgb).double())


def test_dinov2_is_loaded(dinov2_file: Path) -> None:
    features = load_pretrained(dinov2_file)
    assert features.name.startswith("dinov2-vits14-reg4:")
    assert "224x224" in features.preprocessing
    check_features(features, 384)


def test_names_tell_weights_apart(dinov2_file: Path, tmp_path: Path) -> None:
    weights = load_file(dinov2_file)
    save_file(dict(reversed(weights.items())), tmp_path / "same.safetensors")
    weights["norm.bias"][0] += 1
    save_file(weights, tmp_path / "other.safetensors")
    names = [load_pretrained(tmp_path / f"{file}.safetensors").name for file in ("same", "other")]
    assert names[0] == load_pretrained(dinov2_file).name != names[1]


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        (torch.rand(2, 2, 8, 8), "grey or RGB"),
        (torch.rand(3, 8, 8), "grey or RGB"),
        (255 * torch.ones(1, 3, 8, 8), r"in \[0, 1\]"),
        (torch.full((1, 3, 8, 8), torch.nan), r"in \[0, 1\]"),
    ],
)
def test_other_images_are_refused(dinov2_file: Path, bad: Tensor, says: str) -> None:
    with pytest.raises(DataError, match=says):
        load_pretrained(dinov2_file).extract(bad)


@pytest.mark.parametrize("name", ["w.pt", "w.pth", "w.PKL", "w.bin"])
def test_pickles_are_refused_unread(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError, match="save_file") as error:
        load_pretrained(tmp_path / name)
    assert "\n" not in str(error.value)


def test_a_pickle_in_disguise_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    torch.save({"cls_token": torch.zeros(1)}, path)
    with pytest.raises(DataError, match="not a sound safetensors file"):
        load_pretrained(path)


def test_files_are_refused_before_reading(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "w.safetensors"
    with pytest.raises(DataError, match="no weights at"):
        load_pretrained(path)
    path.write_bytes(b"")
    with pytest.raises(DataError, match="not a sound safetensors file"):
        load_pretrained(path)
    path.write_bytes(bytes(101))
    monkeypatch.setattr(pretrained, "LIMIT", 100)
    with pytest.raises(DataError, match="larger than"):
        load_pretrained(path)


def changed(weights: dict[str, Tensor], name: str, value: Tensor | None) -> dict[str, Tensor]:
    return {k: v for k, v in weights.items() if k != name} | ({} if value is None else {name: value})


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("blocks.3.ls1.gamma", None, "lack blocks.3.ls1.gamma"),
        ("mask_token", None, "lack mask_token"),
        ("head.weight", torch.zeros(2), "have unknown head.weight"),
        ("norm.weight", torch.zeros(383), r"norm.weight has the shape \(383,\), not \(384,\)"),
        ("norm.weight", torch.full((384,), torch.inf), "not finite"),
        ("norm.weight", torch.zeros(384, dtype=torch.int64), "not finite floats"),
        ("cls_token", torch.zeros(1, 1, 500), "500 wide"),
        ("cls_token", torch.zeros(()), "legal shape"),
        ("pos_embed", torch.zeros(1, 200, 384), "200 positions"),
        ("cls_token", None, "neither"),
    ],
)
def test_other_weights_are_refused(
    dinov2_file: Path, tmp_path: Path, name: str, value: Tensor | None, says: str
) -> None:
    path = tmp_path / "w.safetensors"
    save_file(changed(load_file(dinov2_file), name, value), path)
    with pytest.raises(DataError, match=says) as error:
        load_pretrained(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_inception_with_other_outputs_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    save_file({"Conv2d_1a_3x3.conv.weight": torch.zeros(1), "fc.bias": torch.zeros(10)}, path)
    with pytest.raises(DataError, match="10 outputs"):
        load_pretrained(path)
    save_file({"Conv2d_1a_3x3.conv.weight": torch.zeros(1), "fc.bias": torch.zeros(1008)}, path)
    with pytest.raises(DataError, match="lack Conv2d_1a_3x3"):
        load_pretrained(path)
