"""The commands: they parse, call one recipe, and print."""

import platform
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from cyclopts import Parameter
from rich.console import Console
from rich.table import Table

from genloom.cli.shared import (
    Anew,
    Json,
    Out,
    Prompt,
    Seed,
    Training,
    at_least,
    emit,
    parsed,
    speaker,
    spoken,
)
from genloom.core import registry
from genloom.core.card import Card
from genloom.core.errors import ConfigError
from genloom.core.events import Categorical, Leaf, Real
from genloom.core.serial import to_json
from genloom.modalities.datasets import DataOptions, open_data
from genloom.recipes import averaging, comparing, fitting, racing
from genloom.recipes.drawing import write_samples
from genloom.recipes.evaluating import LEAST_ITEMS, MAX_ITEMS, SCORED_ITEMS, evaluate_run
from genloom.recipes.fitting import card_facts
from genloom.recipes.novelty import measure_novelty
from genloom.recipes.plane import POINTS, TOY_SECONDS, draw_plane
from genloom.recipes.reproducing import named, reproduce
from genloom.recipes.runs import open_run, versions
from genloom.recipes.targets import RECIPES
from genloom.report.terminal import leaderboard, remarks
from genloom.train import ranks
from genloom.train.checkpoint import write_atomically
from genloom.train.config import TrainConfig
from genloom.train.loop import bf16_pays

Reading = Annotated[DataOptions, Parameter(name="data")]
Overrides = Annotated[
    dict[str, str], Parameter(name="model", help="Settings of the family, such as --model.channels 64.")
]
Resume = Annotated[Literal["auto", "never"], Parameter(help="Go on with what --out holds, or refuse.")]
Conditional = Annotated[Literal["auto", "yes", "no"], Parameter(help="Condition on the classes of the data.")]


def compare_command(
    *sources: str,
    families: Annotated[
        str, Parameter(help="Names, separated by commas, or all; one or two of each kind if absent.")
    ] = "",
    train: Training = TrainConfig(),  # noqa: B008
    data: Reading = DataOptions(),  # noqa: B008
    model: Annotated[
        dict[str, dict[str, dict[str, str]]] | None,
        Parameter(name="model", help="Settings by family, such as --model.flow.nsf.bins 16."),
    ] = None,
    conditional: Conditional = "auto",
    seeds: Annotated[int, Parameter(help="Fits of each family, with different seeds.")] = 1,
    seed: Seed = 0,
    out: Out = None,
    resume: Resume = "auto",
    dry_run: Annotated[
        bool,
        Parameter(negative=(), show_default=False, help="Print the plan and an estimate of the time."),
    ] = False,
    json: Json = False,
) -> None:
    """Train every suitable family at one budget and rank them, or compare finished runs.

    Args:
        sources: a data set's name, a file or a folder; or several run directories.
    """
    if not sources:
        raise ConfigError(
            "compare needs a data set's name, a path, or run directories: genloom compare digits"
        )
    say, command = speaker(), spoken()
    if len(sources) > 1 or (Path(sources[0]) / "run.json").exists():
        _refuse_fitting_flags(
            {
                "--families": families,
                "training settings": train != TrainConfig(),
                "--data": data != DataOptions(),
                "--model": model,
                "--conditional": conditional != "auto",
                "--seeds": seeds != 1,
                "--seed": seed,
                "--resume": resume != "auto",
                "--dry-run": dry_run,
            }
        )
        out = out or comparing.RUNS_OUT
        results = comparing.compare_runs([Path(s) for s in sources], out, command=command, say=say)
    else:
        if (Path(sources[0]) / comparing.MARK).exists():
            raise ConfigError(f"{sources[0]} is a comparison: name its runs, as in {sources[0]}/runs/*")
        if families and not families.strip(", "):
            raise ConfigError("--families names none: leave it out, or name some")
        config = comparing.CompareConfig(
            source=sources[0],
            families=tuple(f.strip() for f in families.split(",") if f.strip()),
            train=train.lasting(comparing.DEFAULT_SECONDS),
            data=data,
            conditional=conditional,
            models=_models(model or {}),
            seeds=at_least(1, seeds, "--seeds"),
            seed=seed,
        )
        if dry_run:
            return _dry_run(config, json)
        out = out or comparing.default_out(sources[0])
        results = comparing.compare(config, out, resume=resume, command=command, progress=not json, say=say)
    if json:
        return emit(results)
    console = Console()
    console.print(leaderboard(results, console.width))
    for text in remarks(results):
        console.print(f"- {text}", highlight=False)
    console.print(f"\n{out / 'report.html'}  {out / 'results.json'}", highlight=False, soft_wrap=True)


def fit_command(
    family: str,
    source: str,
    *,
    train: Training = TrainConfig(),  # noqa: B008
    data: Reading = DataOptions(),  # noqa: B008
    model: Overrides | None = None,
    view: Annotated[str | None, Parameter(help="How the data are offered: levels, scaled, logit …")] = None,
    conditional: Conditional = "auto",
    seed: Seed = 0,
    out: Out = None,
    resume: Resume = "auto",
    json: Json = False,
) -> None:
    """Train one family and leave the model in --out (default runs/FAMILY-DATA-SEED).

    Args:
        family: a name that `genloom list` shows.
        source: a data set's name, a file or a folder.
    """
    registry.module_of(family)
    config = fitting.FitConfig(
        family, source, parsed(model or {}), train.lasting(fitting.FIT_SECONDS), data, view, conditional, seed
    )
    say = speaker()
    out = out or fitting.default_out(config)
    run = fitting.fit(config, out, resume=resume, progress=not json, command=spoken(), say=say)
    if not ranks.speaks():
        return None
    if json:
        return emit(run.facts)
    best = run.facts.get("best", {}).get("value")
    given = " given its class" if run.classes else ""
    figure = "" if best is None else f", {float(best):.2f} nats an item{given} on validation"
    closed = not any("plan" in stage for stage in run.facts["stages"].values())
    how = "fitted in closed form" if closed else f"{run.facts['steps']:,} steps{figure}"
    print(f"{out / 'model.safetensors'}: {how}")


def sample_command(
    run: Path,
    *,
    n: Annotated[int, Parameter(name=("-n", "--n"), help="How many.")] = 64,
    seed: Seed = 0,
    label: Annotated[
        str | None,
        Parameter(name=("--label", "--cond"), help="A class, by name or number; 'each' cycles through all."),
    ] = None,
    given: Annotated[
        str | None, Parameter(help="Values of the given columns, such as age=30,hours=40.")
    ] = None,
    prompt: Prompt = None,
    model: Anew | None = None,
    out: Out = None,
    json: Json = False,
) -> None:
    """Draw samples and write them to files, with one picture of all.

    Args:
        run: a run directory.
    """
    opened = open_run(run).with_settings(parsed(model or {}))
    drawn = write_samples(opened, n, seed=seed, label=label, given=_values(given), prompt=prompt, out=out)
    if json:
        files = [str(file) for file in drawn.files]
        told = {"n": n, "seed": seed, "seconds": drawn.seconds, "picture": str(drawn.picture)}
        return emit({**told, "files": files})
    speed = f"{drawn.seconds:.1f} s, {n / drawn.seconds:,.0f} a second"
    print(f"{drawn.picture}: {n} samples of {opened.family}, seed {seed}, in {speed}")
    return None


def _values(text: str | None) -> dict[str, float] | None:
    """Read ``name=number`` pairs separated by commas."""
    if text is None:
        return None
    pairs = [part.partition("=") for part in text.split(",")]
    try:
        return {name.strip(): float(value) for name, _, value in pairs}
    except ValueError:
        raise ConfigError(f"--given takes names and numbers such as age=30,hours=40, not {text!r}") from None


def evaluate_command(
    run: Path,
    *,
    limit: Annotated[int, Parameter(help="Most test items, and samples, to use.")] = MAX_ITEMS,
    scored: Annotated[int, Parameter(help="Most test items to take the likelihood of.")] = SCORED_ITEMS,
    features: Annotated[Path | None, Parameter(help="Feature weights of another comparison.")] = None,
    model: Anew | None = None,
    out: Out = None,
    json: Json = False,
) -> None:
    """Measure a trained run on its held-out data.

    Args:
        run: a run directory.
    """
    opened = open_run(run).with_settings(parsed(model or {}))
    measured = evaluate_run(
        opened,
        features=features,
        limit=at_least(LEAST_ITEMS, limit, "--limit"),
        scored=at_least(2, scored, "--scored"),
    )
    figures = measured.figures
    plain = {
        name: figure.to_json() | {"digest": figure.fingerprint.digest} for name, figure in figures.items()
    }
    anew = opened.facts.get("set_anew", {})
    result = {"run": str(run), "family": opened.family, "settings": anew, "figures": plain}
    result["copying"] = measured.flagged
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        write_atomically(out / "evaluation.json", to_json(result).encode())
    if json:
        return emit(result)
    table = Table(
        "figure", "value", "95% interval", "n", "kind", "fingerprint", title=f"{opened.family}, {run}"
    )
    for name, figure in figures.items():
        span = f"{figure.lo:.4g} – {figure.hi:.4g}"
        scored = name in ("nll", "bits_per_dim", "bits_per_byte", "perplexity")
        kind = figure.kind.replace("lower_bound", "bound") if scored else figure.note
        shown = f"{'≤ ' if kind == 'bound' else ''}{figure.value:.4g}"
        kind = f"{kind}, given {figure.given}" if figure.given else kind
        table.add_row(name, shown, span, str(figure.n), kind, figure.fingerprint.digest)
    Console().print(table)


def samplers_command(
    *runs: Path,
    samplers: Annotated[str, Parameter(help="Names, separated by commas; all if absent.")] = "",
    calls: Annotated[str, Parameter(help="Network calls a sample, separated by commas.")] = "5,10,20,50",
    also: Annotated[str, Parameter(help="Single points besides, such as ddpm:1000,ddim:100.")] = "",
    limit: Annotated[int, Parameter(help="Most test items, and samples, to use.")] = MAX_ITEMS,
    model: Anew | None = None,
    out: Out = None,
    json: Json = False,
) -> None:
    """Draw by each sampler with different numbers of network calls, from the same noise, and measure.

    Args:
        runs: run directories of diffusion models, all in one picture.
    """
    if not runs:
        raise ConfigError("samplers needs the run directory of a diffusion model, or several")
    names = [name.strip() for name in samplers.split(",") if name.strip()] or racing.SAMPLERS
    counts = [_whole(part, "--calls") for part in calls.split(",")]
    points = [(name.strip(), _whole(n, "--also")) for name, _, n in _pairs(also)]
    limit, heats = at_least(LEAST_ITEMS, limit, "--limit"), list[racing.Heat]()
    for run in runs:
        opened = open_run(run).with_settings(parsed(model or {}))
        heats += racing.race(opened, names, counts, also=points, limit=limit, say=speaker())
    picture = racing.write_race(heats, out or runs[0] / "samplers")
    if json:
        return emit([heat.to_json() for heat in heats])
    table = Table(
        "sampler",
        "calls",
        "Fréchet",
        "95% interval",
        "kernel",
        "ms a sample",
        title=", ".join(map(str, runs)),
    )
    for heat in heats:
        span = f"{heat.frechet.lo:.4g} – {heat.frechet.hi:.4g}"
        shown = (f"{heat.frechet.value:.4g}", span, f"{heat.kernel.value:.3g}", f"{heat.milliseconds:.3g}")
        table.add_row(heat.sampler, str(heat.calls), *shown)
    Console().print(table)
    print(picture)
    return None


def average_command(
    run: Path,
    *,
    horizon: Annotated[
        float | None, Parameter(help="Averaging time as a share of the steps; found by validation if absent.")
    ] = None,
    out: Out = None,
    json: Json = False,
) -> None:
    """Average a run's weights over another length of its training, and write them as a run.

    That goes to --out (default RUN-averaged).

    Args:
        run: a run directory of a fit with --snapshots.
    """
    opened, place = open_run(run), run.resolve()
    made = averaging.average_run(opened, horizon, out or place.with_name(f"{place.name}-averaged"))
    if json:
        tried = {f"{length:g}": nats for length, nats in made.tried.items()}
        return emit({"run": str(made.run.folder), **made.run.facts["averaged"], "tried": tried})
    for length, nats in made.tried.items():
        print(f"horizon {length:g}: {nats:.3f} nats an item on validation")
    print(f"{made.run.folder}: weights averaged over {made.horizon:.0%} of the steps")
    return None


def _pairs(text: str) -> list[tuple[str, str, str]]:
    return [part.partition(":") for part in text.split(",") if part.strip()]


def _whole(text: str, name: str) -> int:
    """Read a whole number, at least 1."""
    try:
        return at_least(1, int(text), name)
    except ValueError:
        raise ConfigError(f"{name} takes whole numbers such as 5,10,20, not {text.strip()!r}") from None


def reproduce_command(
    *names: str,
    quick: Annotated[bool, Parameter(negative=(), help="All recipes that take seconds.")] = False,
    list_: Annotated[bool, Parameter(name="--list", negative=(), help="Show the recipes.")] = False,
    out: Annotated[Path, Parameter(help="Folder of the runs, one for each recipe.")] = Path("runs/reproduce"),
    json: Json = False,
) -> None:
    """Train by a recipe and set what was reached beside its target and the published figures.

    Args:
        names: recipes that --list shows.
    """
    if list_:
        return _list_recipes(json)
    chosen = [*names, *(name for name, recipe in RECIPES.items() if quick and recipe.quick)]
    if not chosen:
        raise ConfigError("name a recipe that genloom reproduce --list shows, or give --quick")
    named(chosen)
    say, command = speaker(), spoken()
    found = []
    for name in chosen:
        found.append(reproduce(name, out / name, progress=not json, command=command, say=say))
        if not json:
            print(found[-1])
    if json:
        emit([one.to_json() for one in found])
    return None


def _list_recipes(json: bool) -> None:
    if json:
        facts = {n: {"protocol": r.protocol, "target": str(r.target)} for n, r in RECIPES.items()}
        return emit(facts)
    for name, recipe in RECIPES.items():
        budget = "seconds" if recipe.quick else f"{(recipe.fit.train.budget or 0) / 60:.0f} min"
        print(
            f"{name}  ({recipe.fit.family}, {budget}, target {recipe.target} {recipe.figure})\n"
            f"    {recipe.protocol}; published: {recipe.published}"
        )
    return None


def novelty_command(
    run: Path,
    source: str,
    *,
    data: Reading = DataOptions(),  # noqa: B008
    background: Annotated[
        Path | None, Parameter(help="A run to divide out; independent values of the same data if absent.")
    ] = None,
    limit: Annotated[int, Parameter(help="Most items of each sort to score.")] = 1000,
    out: Out = None,
    json: Json = False,
) -> None:
    """Score a run's own test items and those of another source, and say how well each score tells them apart.

    Args:
        run: a run directory of a family with a likelihood.
        source: a data set's name, a file or a folder, of items of the same form.
    """
    out = out or run / f"novelty-{Path(source).stem}"
    limit = at_least(2, limit, "--limit")
    found = measure_novelty(
        open_run(run), source, data, out, background=background, limit=limit, command=spoken(), say=speaker()
    )
    if json:
        return emit({**found.to_json(), "picture": str(found.picture)})
    table = Table(
        "score", "area under ROC", "95% interval", title=f"{source} against the run's own test items"
    )
    for name, (area, lo, hi) in found.areas.items():
        table.add_row(name, f"{area:.3f}", f"{lo:.3f} – {hi:.3f}")
    Console().print(table)
    print(f"{found.nats[0]:.1f} nats an own item, {found.nats[1]:.1f} a foreign one; {found.picture}")
    return None


def toys_command(
    *,
    families: Annotated[str, Parameter(help="Names, separated by commas; all that can if absent.")] = "",
    points: Annotated[int, Parameter(help="Points drawn of each toy.")] = POINTS,
    train: Training = TrainConfig(),  # noqa: B008
    seed: Seed = 0,
    out: Annotated[Path, Parameter(help="Folder of the picture and the runs.")] = Path("runs/toys"),
    json: Json = False,
) -> None:
    """Fit families to points in the plane and draw the density or the samples of each, in one picture."""
    gaps = draw_plane(
        out,
        train.lasting(TOY_SECONDS),
        families=[name.strip() for name in families.split(",") if name.strip()],
        points=at_least(10, points, "--points"),
        seed=seed,
        progress=not json,
        command=spoken(),
        say=speaker(),
    )
    if json:
        return emit({"picture": str(out / "toys.png"), "gaps": gaps})
    table = Table("family", *next(iter(gaps.values())), title="nats below the truth on test points")
    for name, row in gaps.items():
        table.add_row(name, *("" if gap is None else f"{gap:.3f}" for gap in row.values()))
    Console().print(table)
    print(out / "toys.png")
    return None


def list_command(*, json: Json = False) -> None:
    """List the families, with the kind of their likelihood and what they take."""
    cards = [registry.load(name).card for name in registry.names()]
    if json:
        return emit([card_facts(c) for c in cards])
    table = Table("family", "what it is", "likelihood", "conditions")
    for c in cards:
        table.add_row(c.name, c.summary, c.likelihood.value if c.likelihood else "none", c.conditions)
    Console().print(table)


def info_command(family: str, *, json: Json = False) -> None:
    """Show a family's card and its settings.

    Args:
        family: a name that `genloom list` shows.
    """
    found = registry.load(family)
    card = found.card
    fields = {
        name: {"default": field.get_default(call_default_factory=True), "help": field.description or ""}
        for name, field in found.config.model_fields.items()
    }
    if json:
        return emit({**card_facts(card), "settings": fields})
    console = Console()
    console.print(f"[bold]{card.name}[/bold]  {card.title}\n{card.summary}\n", highlight=False)
    console.print(_facts_table(card))
    settings = Table("setting", "default", "what it does", title="settings (--model.NAME VALUE)")
    for name, field in fields.items():
        settings.add_row(name, str(field["default"]), field["help"])
    console.print(settings)


EXTRAS = ("pyarrow", "regex", "sacrebleu", "tensorboard", "tokenizers")
"""Packages that genloom uses where they are."""


def doctor_command(*, json: Json = False) -> None:
    """Check this installation and machine: versions, threads, extras, and whether each family builds."""
    facts = {
        **versions(),
        **comparing.machine(),
        "platform": platform.platform(),
        "threads": torch.get_num_threads(),
        "bf16": bf16_pays(),
        "extras": {name: _installed(name) for name in EXTRAS},
        "families": {name: _loads(name) for name in registry.names()},
    }
    if json:
        return emit(facts)
    table = Table("what", "value", show_header=False)
    for name, value in facts.items():
        text = "\n".join(f"{k}: {v}" for k, v in value.items()) if isinstance(value, dict) else str(value)
        table.add_row(name, text)
    Console().print(table)


def _facts_table(card: Card) -> Table:
    table = Table(show_header=False)
    table.add_row("likelihood", card.likelihood.value if card.likelihood else "none")
    table.add_row("conditions", card.conditions)
    table.add_row("good at", "\n".join(card.good_at))
    table.add_row("bad at", "\n".join(card.bad_at))
    table.add_row("references", "\n".join(str(r) for r in card.references))
    return table


def _installed(package: str) -> bool:
    from importlib.util import find_spec

    return find_spec(package) is not None


def _loads(name: str) -> str:
    """Build a tiny model of a family, or say what is wrong with it."""
    try:
        family = registry.load(name)
        events = (Leaf((1, 8, 8), Categorical(5, ordered=True)), Leaf((2,), Real()))
        taken = [e for e in events if any(accepts(e) for accepts in family.card.events)]
        for event in taken[:1]:
            family.config.preset(event).build(event, None)
    except Exception as error:
        return f"broken: {error}"
    return "ok"


def _refuse_fitting_flags(used: dict[str, object]) -> None:
    """Refuse what would have no effect on finished runs."""
    if given := [name for name, value in used.items() if value]:
        raise ConfigError(f"finished runs are compared as they are: leave {', '.join(given)} out")


def _dry_run(config: comparing.CompareConfig, json: bool) -> None:
    dataset = open_data(config.source, config.data)
    plan = comparing.make_plan(config, dataset)
    if json:
        return emit({"families": plan.families, "skipped": plan.skipped, "seconds": plan.seconds})
    print(dataset.description)
    for name in plan.families:
        print(f"  {name}")
    for name, reason in plan.skipped.items():
        print(f"  {name}: skipped, {reason}")
    time = "unknown (a budget in steps)" if plan.seconds is None else f"about {plan.seconds / 60:.1f} minutes"
    print(f"{len(plan.families)} families, {config.seeds} seed(s) each: {time}")
    return None


def _models(nested: dict[str, dict[str, dict[str, str]]]) -> dict[str, dict[str, Any]]:
    """Turn group → family → setting → value into family → settings."""
    found = {
        f"{group}.{name}": parsed(values)
        for group, members in nested.items()
        for name, values in members.items()
    }
    for name in found:
        registry.module_of(name)
    return found
