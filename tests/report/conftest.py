"""A made-up comparison of the size and shape that compare writes: 8 ranked models, a copier, a failure."""

import math
from io import BytesIO

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

BUDGET = "15 s a family, compilation and validation included"
MACHINE = {"cpu": "Xeon", "cores": 2, "memory_gib": 16, "torch": "2.13", "python": "3.11", "genloom": "0.1.0"}
LEAD = "A Gaussian mixture ranks first here: on 8×8 digits a well-fitted mixture is hard to beat."
WILSON = "Interval: Wilson, 95%."
COLUMNS = [
    (
        "frechet",
        "Fréchet distance",
        "lower",
        "Between Gaussians fitted to features. Interval: jackknife, 95%.",
    ),
    ("kernel", "Kernel distance", "lower", "Unbiased MMD, polynomial kernel. Interval: jackknife, 95%."),
    ("c2st", "Two-sample test", "half", f"Accuracy of telling samples from test items, five folds. {WILSON}"),
    ("precision", "Precision", "higher", f"Samples inside the 5-neighbour balls of test items. {WILSON}"),
    ("recall", "Recall", "higher", f"Test items inside the 5-neighbour balls of samples. {WILSON}"),
    ("coverage", "Coverage", "higher", f"Test items with a sample within their fifth neighbour. {WILSON}"),
    ("copying", "Copying", "lower", f"Samples nearer to training items than held-out items are. {WILSON}"),
    ("nll", "Negative log-likelihood", "lower", "Mean over the test split. Interval: normal, 95%."),
    ("bits_per_dim", "Bits per pixel", "lower", "The same in bits, over 64 pixels. Interval: normal, 95%."),
]
MODELS = [
    ("mixture.gmm", "Gaussian mixture", 9.8, 92.7, "exact", "", "Dempster et al. 1977"),
    ("diffusion.ddpm", "Denoising diffusion", 11.2, 96.1, "lower_bound", "", "Ho 2020, arXiv:2006.11239"),
    ("flow.matching", "Flow matching", 12.0, 97.4, "estimate", "", "Lipman 2023, arXiv:2210.02747"),
    ("ar.pixelcnn", "PixelCNN++", 17.6, 88.2, "exact", "class", "Salimans 2017, arXiv:1701.05517"),
    ("flow.nsf", "Neural spline flow", 24.3, 101.9, "lower_bound", "", "Durkan 2019, arXiv:1906.04032"),
    (
        "vae.gaussian",
        "Variational autoencoder",
        41.0,
        108.3,
        "lower_bound",
        "",
        "Kingma 2014, arXiv:1312.6114",
    ),
    ("gan.wgan_gp", "Wasserstein GAN", 58.7, None, "exact", "", "Gulrajani 2017, arXiv:1704.00028"),
    ("baseline.independent", "Independent pixels", 212.4, 131.5, "exact", "", ""),
]


def figure(key, value, n, kind="exact", given=""):
    width = {"frechet": 0.09 * value, "kernel": 0.15 * value, "nll": 0.9, "bits_per_dim": 0.02}.get(
        key, 0.022
    )
    top = 1.0 if key in ("c2st", "precision", "recall", "coverage", "copying") else math.inf
    return {
        "value": value,
        "lo": max(value - width, 0.0),
        "hi": min(value + 1.15 * width, top),
        "n": n,
        "kind": kind,
        "given": given,
        "note": "",
        "fingerprint": {
            "metric": key,
            "version": 1,
            "features": "digits classifier, 64 features, sha 9f31c0" if key != "nll" else None,
            "preprocessing": "levels 0..16 scaled to [-1, 1]",
            "data": "digits/test 2f6a9c",
            "digest": f"{key[:3]}{abs(hash_of(key)):08x}",
        },
    }


def hash_of(text):
    return sum(ord(letter) * 31**place for place, letter in enumerate(text)) % 2**32


def figures(frechet, nll=None, kind="exact", given="", copying=0.012):
    bad = math.log(frechet / 3.1) / math.log(70)
    values = {
        "frechet": frechet,
        "kernel": 0.0004 * frechet,
        "c2st": 0.5 + 0.48 * bad**0.7 if bad > 0 else 0.5,
        "precision": 0.93 - 0.75 * bad**2,
        "recall": 0.91 - 0.6 * bad,
        "coverage": 0.95 - 0.8 * bad**1.5,
        "copying": copying,
    }
    made = {key: figure(key, value, 1000) for key, value in values.items()}
    if nll is not None:
        made["nll"] = figure("nll", nll, 360, kind, given)
        made["bits_per_dim"] = figure("bits_per_dim", nll / 64 / math.log(2), 360, kind, given)
    return made


def curve(final, until, seconds=14.0, steps=2400):
    points = []
    for share in np.linspace(0, until, 60):
        loss = final * (1 + 2.2 * math.exp(-9 * share))
        wobble = 0.03 * final * math.sin(70 * share)
        points.append(
            {
                "step": int(steps * share),
                "seconds": seconds * share,
                "train": loss + wobble - 0.02 * final,
                "valid": loss,
            }
        )
    return points


def model(place, name, title, frechet, nll, kind, given, source):
    closed = name.startswith(("mixture", "baseline"))
    return {
        "name": name,
        "title": title,
        "role": "model",
        "status": "ok",
        "why": "",
        "rank": place,
        "figures": figures(frechet, nll, kind, given),
        "per_seed": {"frechet": [frechet]},
        "cost": {
            "parameters": 18_560 if closed else 90_000 * place + 211,
            "train_seconds": 1.4 if closed else 14.6,
            "steps": 40 if closed else 5200 // place,
            "sample_seconds_per_1000": [0.002, 1.9, 0.31, 4.4, 0.09, 0.004, 0.006, 0.001][place - 1],
            "flops_per_step": None,
        },
        "curves": [] if closed else curve(nll or 0.8, 1.0, steps=5200 // place),
        "curve_label": "nats" if nll else "critic loss",
        "run": f"runs/{name}-0",
        "view": "scaled",
        "references": [source] if source else [],
    }


def failed():
    row = model(
        7,
        "energy.ebm",
        "Energy-based model",
        99.0,
        None,
        "exact",
        "",
        "Du and Mordatch 2019, arXiv:1903.08689",
    )
    why = "Its energy became NaN at step 412; the last good state is in the run."
    return row | {"status": "failed", "why": why, "rank": None, "figures": {}, "curves": curve(2.0, 0.3)}


def copier():
    row = model(2, "kernel.kde", "Kernel density", 6.4, None, "exact", "", "Parzen 1962")
    why = "81% of its samples are nearer to a training item than held-out data ever is."
    return row | {
        "status": "copying",
        "why": why,
        "rank": None,
        "curves": [],
        "figures": figures(6.4, 95.8, copying=0.81),
    }


def reference(name, title, frechet, copying):
    row = {"name": name, "title": title, "role": "reference", "status": "reference", "why": "", "rank": None}
    return row | {"figures": figures(frechet, copying=copying), "per_seed": {}, "cost": {}, "curves": []}


def make_results():
    rows = [model(place, *facts) for place, facts in enumerate(MODELS, 1)]
    rows += [
        failed(),
        copier(),
        reference("real", "Real test data", 3.1, 0.01),
        reference("copies", "Training copies", 4.0, 1.0),
    ]
    return {
        "version": 1,
        "data": {
            "name": "digits",
            "description": "Handwritten digits, 8×8 pixels of 17 grey levels (UCI, via scikit-learn).",
            "fingerprint": "sha256:2f6a9c41d0",
            "sizes": {"train": 1257, "valid": 180, "test": 360},
            "units": "pixels",
            "units_per_item": 64,
            "classes": list(range(10)),
            "notes": ["Split by a fixed draw, stratified by class."],
        },
        "budget": {"kind": "seconds", "value": 15.0, "text": BUDGET},
        "seeds": [0],
        "machine": dict(MACHINE),
        "command": "genloom compare digits",
        "started": "2025-11-20 23:15",
        "seconds": 263.0,
        "columns": [
            {"key": key, "title": title, "better": better, "unit": "nats" if key == "nll" else "", "how": how}
            for key, title, better, how in COLUMNS
        ],
        "rank_by": "frechet",
        "rows": rows,
        "skipped": [
            {"name": "text.transformer", "reason": "takes sequences of symbols; digits are images."},
            {"name": "table.copula", "reason": "needs pyarrow: pip install 'genloom[tables]'."},
        ],
        "remarks": [
            LEAD,
            "PixelCNN++ was told the class of every test item, worth up to 2.3 nats an item.",
        ],
    }  # fmt: skip


def glyph_grid(rng, noise, rows=8, columns=8, by_class=False):
    """A grid of 8×8 digits with one pixel between them, as PNG bytes."""
    sheet = np.full((rows * 9 - 1, columns * 9 - 1), 40, np.uint8)
    font = ImageFont.load_default(size=10)
    for i in range(rows):
        for j in range(columns):
            image = Image.new("L", (8, 8))
            digit = i if by_class else int(rng.integers(10))
            ImageDraw.Draw(image).text((1, -2), str(digit), fill=255, font=font)
            pixels = np.asarray(image, float) * (0.7 + 0.3 * rng.random()) + rng.normal(
                0, 255 * noise, (8, 8)
            )
            sheet[i * 9 : i * 9 + 8, j * 9 : j * 9 + 8] = np.clip(pixels, 0, 255)
    file = BytesIO()
    Image.fromarray(sheet).save(file, "png")
    return file.getvalue()


def make_pictures():
    rng = np.random.default_rng(0)
    pictures = {"real": ("image/png", glyph_grid(rng, 0.0)), "copies": ("image/png", glyph_grid(rng, 0.0))}
    for place, (name, *_) in enumerate(MODELS):
        pictures[name] = ("image/png", glyph_grid(rng, 0.02 + 0.03 * place))
    pictures["kernel.kde"] = ("image/png", glyph_grid(rng, 0.04))
    for name in ("diffusion.ddpm", "ar.pixelcnn", "flow.matching"):
        pictures[f"{name}:classes"] = ("image/png", glyph_grid(rng, 0.08, rows=10, columns=10, by_class=True))
    return pictures


@pytest.fixture
def results():
    return make_results()


@pytest.fixture(scope="session")
def pictures():
    return make_pictures()
