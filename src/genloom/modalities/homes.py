"""Where named data sets live: a folder of the user's, the cache, or their public home."""

import hashlib
import os
import sys
import tempfile
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.error import URLError

from genloom.core.errors import DataError

CHUNK = 2**20
TIMEOUT = 30.0


@dataclass(frozen=True)
class Remote:
    """A file with a public home: its exact size in bytes and its sha256 in hexadecimal."""

    name: str
    url: str
    size: int
    sha256: str


_MNIST = "https://ossci-datasets.s3.amazonaws.com/mnist/"

_DENSITY = (
    "https://raw.githubusercontent.com/UCLA-StarAI/Density-Estimation-Datasets/"
    "37d53c1a8ba488d0a39e8c64bd3387577080b143/datasets/"
)
_BINARY_SETS = {
    "nltcs": (
        ("train", 517_792, "e547a7aedad1dd2f7177030881ab1b92c7e24ae5464c71a0f1f89daecaf52b30"),
        ("valid", 69_024, "93bbbf5c6febdc9bc6e5b5bfab636f4dc0685ab2896d24b23dd267794c3bfcf6"),
        ("test", 103_552, "f9ffa6b74b27dc03bee3203d157ee31079e80b13be40d0c0093d635c25aed523"),
    ),
    "plants": (
        ("train", 2_402_856, "1fb1219ff94068d12a563f9e81f8889a1885f41e867884cff608669300c6848f"),
        ("valid", 320_298, "47834ed318b2d74f48e4b083226ef47fd446d41986012ceae19d230574821b34"),
        ("test", 480_516, "95f53c033cd1d86467aec2610dc5bfe014534206c2da4919f73bcab246ab8755"),
    ),
    "mushrooms": (
        ("train", 448_000, "465c712c066bbbee3ccceded24bbe42b4c379df67b524e28cce9bf3a8b83f27b"),
        ("valid", 112_000, "5a067e6854df71623415e6adc8e913cbff766637a324788882ba800907aa5385"),
        ("test", 1_259_776, "313c5f04b5d0a18bee2f2ffa264be265d09f5362aad6f714637acd9552f81aa0"),
    ),
    "dna": (
        ("train", 576_000, "bb8de0ca4b6ad9b610036b7a302962ebecd4b504354b14c02c7d0bee48d207d9"),
        ("valid", 144_000, "4b0fc89cda5eaf5c75926e281afb6af99de194a546070d5b81b524ba251f4f3f"),
        ("test", 426_960, "fec3ae7b26804020a9c43c99828441c5e08bb76b23719368a74ad2b09af99100"),
    ),
}

_UCI = "https://raw.githubusercontent.com/jbrownlee/Datasets/d20fcb6402ae34e653d4513b00f39257bb37ed7f/"
_UPDRS = (
    "https://raw.githubusercontent.com/behnazrzf/Parkinson-s_Telemonitoring/"
    "f603774b38bfc967f20b4752bec4b6f872917d98/parkinsons_updrs.data"
)
_WINE = (
    "fixed acidity",
    "volatile acidity",
    "citric acid",
    "residual sugar",
    "chlorides",
    "free sulfur dioxide",
    "total sulfur dioxide",
    "density",
    "pH",
    "sulphates",
    "alcohol",
    "quality",
)


@dataclass(frozen=True)
class Layout:
    """What a table's files do not say: the folder of ``GENLOOM_DATA`` they are in, columns, and the label."""

    folder: str
    columns: tuple[str, ...] = ()
    label: str | None = None


_ABALONE = (
    "sex",
    "length",
    "diameter",
    "height",
    "whole weight",
    "shucked weight",
    "viscera weight",
    "shell weight",
    "rings",
)
_CONTINUOUS = "density/continuous"

_MULTI30K = "https://raw.githubusercontent.com/multi30k/dataset/a3d2e0d26b56f3846f66a952536ffed4e401d05a/data/task1/raw/"
_SENTENCES = (
    ("train.de.gz", 637_044, "726e39b2fa9eb9ffb6dc763fb35a179f80fae06ffc5d28b6ace5faa883de28a6"),
    ("train.en.gz", 568_929, "d79cfa999dd4c51d2cb42499b6796d5a882c3a8a961923c25a898c90f8bbd56f"),
    ("val.de.gz", 24_681, "f0cba2f995189cf5770f29a8a9a537a3ad3f51657ad873405082ff6863a5e75a"),
    ("val.en.gz", 21_650, "14f7d25ddd868909a9213e361768460edcacdd6ab9d1e77b92560dc10c10dc28"),
    ("test_2016_flickr.de.gz", 22_890, "9204244e408ccb38d2a55cfcd344df15005fc42a07a6e55ca6c52b6ababb8cc8"),
    ("test_2016_flickr.en.gz", 21_077, "611d361c6334bc7246101d48097c13cf5c4413c5befc793cc629934359d532d9"),
)

TABLES: Mapping[str, Layout] = {
    **dict.fromkeys(_BINARY_SETS, Layout("density/binary")),
    "wine_red": Layout(_CONTINUOUS, _WINE, "quality"),
    "wine_white": Layout(_CONTINUOUS, _WINE, "quality"),
    "abalone": Layout(_CONTINUOUS, _ABALONE, "sex"),
    "banknote": Layout(_CONTINUOUS, ("variance", "skewness", "curtosis", "entropy", "class"), "class"),
    "parkinsons": Layout(_CONTINUOUS),
}
"""Named sets that are tables."""

REMOTES: Mapping[str, tuple[Remote, ...]] = {
    "mnist": tuple(
        Remote(name, _MNIST + name, size, sha256)
        for name, size, sha256 in (
            (
                "train-images-idx3-ubyte.gz",
                9_912_422,
                "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
            ),
            (
                "train-labels-idx1-ubyte.gz",
                28_881,
                "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
            ),
            (
                "t10k-images-idx3-ubyte.gz",
                1_648_877,
                "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
            ),
            (
                "t10k-labels-idx1-ubyte.gz",
                4_542,
                "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
            ),
        )
    ),
    "cifar10": (
        Remote(
            "cifar-10-binary.tar.gz",
            "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
            170_052_171,
            "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
        ),
    ),
    "cifar10-jpeg": (),
    **{
        name: tuple(
            Remote(f"{name}.{split}.data", f"{_DENSITY}{name}/{name}.{split}.data", size, sha256)
            for split, size, sha256 in files
        )
        for name, files in _BINARY_SETS.items()
    },
    "multi30k": tuple(Remote(name, _MULTI30K + name, size, digest) for name, size, digest in _SENTENCES),
    "captions": tuple(
        Remote(name, _MULTI30K + name, size, digest) for name, size, digest in _SENTENCES if ".en." in name
    ),
    "names": (
        Remote(
            "names.txt",
            "https://raw.githubusercontent.com/karpathy/makemore/"
            "988aa59e4d8fefa526d06f3b453ad116258398d4/names.txt",
            228_145,
            "0a30b5557f192f32ab962680889aac5f6fda0f4cecf40a6d0b5694f58ea8cc4d",
        ),
    ),
    "shakespeare": (
        Remote(
            "input.txt",
            "https://raw.githubusercontent.com/karpathy/char-rnn/"
            "6f9487a6fe5b420b7ca9afb0d7c078e37c1d1b4e/data/tinyshakespeare/input.txt",
            1_115_394,
            "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed",
        ),
    ),
    "wine_red": (
        Remote(
            "winequality-red.csv",
            _UCI + "winequality-red.csv",
            84_028,
            "c9614512e980f1cbd221c796daa97f00c4898c3cd1716863abac60f6cd1a522e",
        ),
    ),
    "wine_white": (
        Remote(
            "winequality-white.csv",
            _UCI + "winequality-white.csv",
            264_255,
            "659d419fff887f225bf977d20520bb64a64cae203e460087f809721d4430ba27",
        ),
    ),
    "abalone": (
        Remote(
            "abalone.csv",
            _UCI + "abalone.csv",
            191_872,
            "eb2de13be807e9bb9ec4128b9c89b98ab23d7739121cfd17b7dde69b46ba7bf6",
        ),
    ),
    "banknote": (
        Remote(
            "banknote_authentication.csv",
            _UCI + "banknote_authentication.csv",
            46_400,
            "d0539aaed2139ba7a587b3e34fb345ce503ff7d5d33dbf9912d8e195ce425cb9",
        ),
    ),
    "parkinsons": (
        Remote(
            "parkinsons_updrs.data",
            _UPDRS,
            911_261,
            "f2c7d5025dec4e92e7feae367a5f7ccf58789a10ac6b54bdf15976c599f9dd39",
        ),
    ),
}
"""The files of each name; none where there is no public home."""

FOLDERS = {**{name: table.folder for name, table in TABLES.items()}, "captions": "multi30k"}
"""Folders with files of several sets, by the names of these."""


def cache() -> Path:
    """Return the folder that downloads are kept in."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "genloom"


def locate(name: str) -> Path:
    """Return the folder of a named data set, filled from its public home if it is nowhere yet.

    Raises:
        DataError: it is nowhere, and cannot be downloaded.
    """
    given = os.environ.get("GENLOOM_DATA")
    home, remotes = cache() / name, REMOTES[name]
    folder = FOLDERS.get(name, name)
    places = [Path(given, folder), home] if given else [home]
    if found := [
        place for place in places if _holds(place, remotes, exactly=name in FOLDERS or place == home)
    ]:
        return found[0]
    looked = f"{name} is not in {' nor in '.join(map(str, places))}"
    advice = f"set GENLOOM_DATA to the folder that holds {folder}/"
    if not remotes:
        raise DataError(f"{looked}, and it has no public home: {advice}")
    try:
        for remote in remotes:
            fetch(remote, home / remote.name)
    except OSError as error:
        raise DataError(f"{looked}, and it cannot be downloaded ({error}): {advice}") from error
    return home


def _holds(folder: Path, remotes: Sequence[Remote], exactly: bool) -> bool:
    """Tell whether a folder is ready: with every file of the set, or, if not exactly, with anything."""
    if remotes and exactly:
        return all((folder / remote.name).exists() for remote in remotes)
    return folder.is_dir() and any(folder.iterdir())


def fetch(remote: Remote, target: Path) -> None:
    """Download a file unless it is there, check its size and sha256, and only then give it its name.

    Raises:
        DataError: what came is not the expected file.
        OSError: the network or the disk failed.
    """
    if target.exists():
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        part = Path(folder, remote.name)
        digest = _download(remote, part)
        if part.stat().st_size != remote.size or digest != remote.sha256:
            raise DataError(
                f"{remote.url} is not the expected file of {remote.size:,} bytes: nothing was kept"
            )
        part.replace(target)


def _download(remote: Remote, part: Path) -> str:
    """Stream at most one byte more than expected to ``part``; return its sha256."""
    digest, done = hashlib.sha256(), 0
    with urllib.request.urlopen(remote.url, timeout=TIMEOUT) as source, part.open("wb") as file:
        if not source.url.startswith("https://"):
            raise URLError("redirected to an address without https")
        while done <= remote.size and (chunk := source.read(min(CHUNK, remote.size + 1 - done))):
            file.write(chunk)
            digest.update(chunk)
            done += len(chunk)
            show_progress(remote.name, done, remote.size)
    return digest.hexdigest()


def show_progress(name: str, done: int, size: int) -> None:
    """Show on a terminal what share of a file's bytes is done."""
    if sys.stderr.isatty():
        end = "\n" if done >= size else ""
        share = min(done / size, 1.0)
        sys.stderr.write(f"\r{name}  {share:4.0%} of {size / 1e6:.1f} MB{end}")
        sys.stderr.flush()
