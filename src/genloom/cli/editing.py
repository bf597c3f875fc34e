"""The commands that take items: their codes, walks between them, and items completed, restored, redrawn."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from genloom.cli.shared import Anew, Json, Out, Prompt, Seed, at_least, emit, parsed
from genloom.core.errors import ConfigError
from genloom.recipes import editing, walking
from genloom.recipes.runs import Run, open_run
from genloom.tasks import latents

Items = Annotated[
    str | None,
    Parameter(help="Data of the same form: a name, file or folder; the run's if absent."),
]


@dataclass(frozen=True)
class Asked:
    """What commands that draw items anew are asked."""

    n: Annotated[int, Parameter(name=("-n", "--n"), help="How many items.")] = 8
    draws: Annotated[int, Parameter(help="How often each is drawn.")] = 6
    label: Annotated[
        str,
        Parameter(
            name=("--label", "--cond"),
            help="What a conditional model is told: own, an item's own class or caption; none; or a class.",
        ),
    ] = "own"
    prompt: Prompt = None
    measure: Annotated[
        bool,
        Parameter(negative=(), show_default=False, help="Compare with the items as they were, in figures."),
    ] = False
    seed: Seed = 0

    @property
    def wanted(self) -> editing.Wanted:
        """The same, checked."""
        counts = at_least(1, self.n, "-n"), at_least(1, self.draws, "--draws")
        if self.prompt is not None and self.label != "own":
            raise ConfigError("a prompt says all that the model is told: leave --label out")
        return editing.Wanted(*counts, self.label, self.measure, self.seed, self.prompt)


Wishes = Annotated[Asked, Parameter(name="*")]
NOTHING_ELSE = Asked()

WORDS = {
    "drawn": "drawn",
    "typical": "the most typical draw of each",
    "before": "without a model",
    "real": "as they were",
}


def encode_command(
    run: Path,
    data: Items = None,
    *,
    split: Annotated[walking.Part, Parameter(help="Which part of the data.")] = "test",
    out: Annotated[
        Path | None, Parameter(help="A new file, .csv or .safetensors; RUN/codes.csv if absent.")
    ] = None,
    json: Json = False,
) -> None:
    """Write the code of every item, a row each, with its class where the data have classes.

    Args:
        run: a run directory of a family with codes: an autoencoder, a VAE, a flow or a diffusion model.
    """
    path, codes = walking.write_codes(open_run(run), data, split, out)
    if json:
        return emit({"codes": str(path), "shape": list(codes.shape)})
    print(f"{path}: {len(codes)} codes of shape {tuple(codes.shape[1:])}")
    return None


def reconstruct_command(
    run: Path,
    data: Items = None,
    *,
    n: Annotated[int, Parameter(name=("-n", "--n"), help="How many items.")] = 32,
    out: Out = None,
    json: Json = False,
) -> None:
    """Encode and decode items; write them, the originals, the error of each and a picture of both.

    Args:
        run: a run directory of a family with codes: an autoencoder, a VAE, a flow or a diffusion model.
    """
    walk = walking.write_reconstructions(open_run(run), data, at_least(1, n, "-n"), out)
    error = walk.facts["mean_squared_error"]
    return _tell(walk, f"{walk.facts['n']} reconstructions, mean squared error {error:.4g}", json)


def interpolate_command(
    run: Path,
    data: Items = None,
    *,
    pairs: Annotated[int, Parameter(help="How many pairs of items.")] = 8,
    steps: Annotated[int, Parameter(help="Items on a path, ends included.")] = 8,
    path: Annotated[latents.Path, Parameter(help="A line, or a turn at a constant rate.")] = "spherical",
    out: Out = None,
    json: Json = False,
) -> None:
    """Walk between the codes of pairs of items; write the items on the way and a picture of all.

    Args:
        run: a run directory of a family with codes: an autoencoder, a VAE, a flow or a diffusion model.
    """
    counts = at_least(1, pairs, "--pairs"), at_least(2, steps, "--steps")
    walk = walking.write_interpolations(open_run(run), data, *counts, path, out)
    return _tell(walk, f"{walk.facts['pairs']} {path} paths of {steps} items", json)


def traverse_command(
    run: Path,
    data: Items = None,
    *,
    item: Annotated[int, Parameter(help="The number of the item.")] = 0,
    coordinates: Annotated[int, Parameter(help="How many, those that vary most first.")] = 8,
    steps: Annotated[int, Parameter(help="Values of each coordinate.")] = 8,
    reach: Annotated[float, Parameter(help="Standard deviations to either side of the mean.")] = 2.0,
    out: Out = None,
    json: Json = False,
) -> None:
    """Vary single coordinates of an item's code, the others held; write the items and a picture of all.

    Args:
        run: a run directory of a family with codes: an autoencoder, a VAE, a flow or a diffusion model.
    """
    if not 0 < reach < float("inf"):
        raise ConfigError(f"--reach must be a number above 0, not {reach}")
    counts = at_least(1, coordinates, "--coordinates"), at_least(2, steps, "--steps")
    walk = walking.write_traversals(open_run(run), data, item, *counts, reach, out)
    return _tell(walk, f"{len(walk.facts['coordinates'])} coordinates, {steps} values each", json)


def edit_command(
    run: Path,
    data: Items = None,
    *,
    away: Annotated[str, Parameter(name="--from", help="The class of the items that are edited.")],
    towards: Annotated[str, Parameter(name="--to", help="The class that they are moved towards.")],
    n: Annotated[int, Parameter(name=("-n", "--n"), help="How many items.")] = 8,
    steps: Annotated[int, Parameter(help="Items on the way, the first unmoved.")] = 8,
    strength: Annotated[float, Parameter(help="1 moves by the difference of the mean codes.")] = 1.0,
    out: Out = None,
    json: Json = False,
) -> None:
    """Move the codes of items from one class towards another; write the items and a picture of all.

    Args:
        run: a run directory of a family with codes: an autoencoder, a VAE, a flow or a diffusion model.
    """
    if not -float("inf") < strength < float("inf"):
        raise ConfigError(f"--strength must be a number, not {strength}")
    counts = at_least(1, n, "-n"), at_least(2, steps, "--steps")
    walk = walking.write_edits(open_run(run), data, away, towards, *counts, strength, out)
    return _tell(walk, f"{walk.facts['n']} items moved from {away} towards {towards}", json)


def infill_command(
    run: Path,
    data: Items = None,
    *,
    hide: Annotated[editing.Hidden, Parameter(help="Which places are drawn anew.")] = "last",
    keep: Annotated[float, Parameter(help="Share of places that are kept.")] = 0.5,
    asked: Wishes = NOTHING_ELSE,
    model: Anew | None = None,
    out: Out = None,
    json: Json = False,
) -> None:
    """Keep a part of items and draw the rest anew; write the results and a picture of all.

    Args:
        run: a run directory of a family that infills: an autoregressive or a diffusion model.
    """
    if not 0 < keep < 1:
        raise ConfigError(f"--keep must be a share above 0 and below 1, not {keep}")
    walk = editing.write_infills(_opened(run, model), data, hide, keep, asked.wanted, out)
    return _tell(walk, f"{walk.facts['n']} items, each completed {asked.draws} times", json)


def restore_command(
    run: Path,
    data: Items = None,
    *,
    given: Annotated[editing.Given, Parameter(help="What is known of images.")] = "small",
    factor: Annotated[int, Parameter(help="Side of the squares of which small images are the averages.")] = 4,
    blur: Annotated[float, Parameter(help="Deviation of blurred images, in pixels.")] = 1.5,
    asked: Wishes = NOTHING_ELSE,
    model: Anew | None = None,
    out: Out = None,
    json: Json = False,
) -> None:
    """Make images small, blurred or grey and restore them; write the results and a picture of all.

    Args:
        run: a run directory of a diffusion model of images.
    """
    factor = at_least(2, factor, "--factor")
    walk = editing.write_restorations(_opened(run, model), data, given, factor, blur, asked.wanted, out)
    return _tell(walk, f"{walk.facts['n']} {given} images, each restored {asked.draws} times", json)


def redraw_command(
    run: Path,
    data: Items = None,
    *,
    strength: Annotated[float, Parameter(help="How much is forgotten, up to 1.")] = 0.5,
    asked: Wishes = NOTHING_ELSE,
    model: Anew | None = None,
    out: Out = None,
    json: Json = False,
) -> None:
    """Hide items in noise and draw them anew from what is left; write the results and a picture of all.

    Args:
        run: a run directory of a diffusion model.
    """
    walk = editing.write_redrawings(_opened(run, model), data, strength, asked.wanted, out)
    return _tell(walk, f"{walk.facts['n']} items, each drawn anew {asked.draws} times", json)


def _opened(run: Path, settings: dict[str, str] | None) -> Run:
    return open_run(run).with_settings(parsed(settings or {}))


def _figures(facts: dict[str, Any]) -> Iterator[str]:
    """Say how near what was drawn is to what was there, and what could be had without a model."""
    if "known_kept" in facts:
        yield f"of what was known, to the nearest level, {facts['known_kept']:.2%} is found in what was drawn"
    for name, value in facts.get("psnr", {}).items():
        yield f"{WORDS[name]}: PSNR {value:.2f} dB"
    for name, kept in facts.get("class_kept", {}).items():
        lo, hi = kept["interval"]
        yield f"{WORDS[name]}: class recognised of {kept['share']:.1%} ({lo:.1%} – {hi:.1%})"


def _tell(walk: walking.Walk, text: str, json: bool) -> None:
    if json:
        return emit({**walk.facts, "picture": str(walk.picture), "files": [str(f) for f in walk.files]})
    print(f"{walk.picture}: {text}", *_figures(walk.facts), sep="\n")
    return None
