"""Which checks a family must pass, and how they are run."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Any

from genloom.core.capabilities import (
    Aligner,
    ClosedForm,
    Denoiser,
    Energy,
    Infill,
    Invertible,
    Latent,
    LatentVariable,
    Likelihood,
    Redrawer,
    Restorer,
    Reversible,
    Sampler,
    Steerable,
)
from genloom.core.events import Event
from genloom.testing import checks
from genloom.testing.checks import each_case, naming
from genloom.testing.subject import Subject
from genloom.testing.values import EVENTS

NONE: Mapping[str, Any] = MappingProxyType({})


@dataclass(frozen=True)
class Check:
    """One promise of one family. Calling it raises ``AssertionError`` if the promise is broken."""

    family: str
    name: str
    run: Callable[[], None]

    def __str__(self) -> str:
        return f"{self.family}-{self.name}"

    def __call__(self) -> None:
        with naming(str(self)):
            self.run()


def check_family(
    name: str, events: Mapping[str, Event] = EVENTS, settings: Mapping[str, Any] = NONE
) -> list[str]:
    """Run every check that applies to a registered family.

    Args:
        name: its registry name.
        events: titled events to try it on, where it accepts none of the usual ones.
        settings: of the model, on top of its presets, where those would make the checks slow.

    Returns:
        The names of the checks, all of which passed.

    Raises:
        AssertionError: a promise is broken; the text names the family, the check, the event and the fault.
    """
    found = checks_for(name, events, settings)
    for check in found:
        check()
    return [check.name for check in found]


def checks_for(
    name: str, events: Mapping[str, Event] = EVENTS, settings: Mapping[str, Any] = NONE
) -> list[Check]:
    """Return the checks that apply to a registered family, ready to be called.

    A family that cannot even build a model has one check, ``build``, which fails.

    Raises:
        ConfigError: no such family.
    """
    subject = Subject(name, events, settings)
    try:
        names = applicable(subject)
    except Exception as error:
        return [Check(name, "build", partial(fail, error))]
    return [Check(name, title, partial(run, subject)) for title, run in names.items()]


def fail(error: Exception) -> None:
    """Raise an error that was caught."""
    raise error


def applicable(subject: Subject) -> dict[str, Callable[[Subject], None]]:
    """Return the checks of what the family's models offer, by name."""
    found: dict[str, Callable[[Subject], None]] = {
        "card": checks.card_is_sane,
        "config": checks.config_is_closed,
        "refusal": checks.refuses_other_events,
        "training": each_case(checks.training_reaches_everything),
        "weights": each_case(checks.weights_are_everything),
        "modes": each_case(checks.modes_agree),
        "float64": each_case(checks.works_in_float64),
    }
    by_capability: list[tuple[type, str, Callable[..., None]]] = [
        (Sampler, "samples", checks.samples_are_legal),
        (Sampler, "sample_count", checks.samples_do_not_depend_on_how_many),
        (Aligner, "alignment", checks.alignment_adds_up),
        (Infill, "infill", checks.infilling_keeps_what_is_known),
        (Restorer, "restore", checks.restoring_agrees),
        (Redrawer, "redraw", checks.redrawing_keeps_some),
        (Steerable, "steering", checks.steering_follows_the_reward),
        (Likelihood, "likelihood", checks.likelihood_keeps_its_word),
        (Likelihood, "likelihood_shapes", checks.likelihood_refuses_other_shapes),
        (Latent, "latent", checks.codes_decode),
        (Reversible, "reversible", checks.codes_lead_back),
        (LatentVariable, "inference", checks.codes_are_inferred),
        (Invertible, "invertible", checks.inverse_inverts),
        (Denoiser, "denoiser", checks.denoiser_denoises),
        (Energy, "energy", checks.energy_is_minus_score),
        (ClosedForm, "closed_form", checks.closed_form_fits),
    ]
    found |= {name: each_case(check) for kind, name, check in by_capability if subject.offers(kind)}
    card = subject.family.card
    if subject.offers(Sampler) and not card.couples_samples:
        found["independence"] = each_case(checks.samples_do_not_see_each_other)
    if card.conditions == "sequence":
        found["source"] = each_case(checks.source_matters)
    if card.conditions == "text":
        found["texts"] = each_case(checks.texts_matter)
    if card.conditions in ("class", "text", "any"):
        found["labels"] = each_case(checks.labels_matter)
    if card.conditions == "any":
        found["numbers"] = each_case(checks.numbers_matter)
    if any(stage.objective for stage in subject.stages):
        found["keyed"] = each_case(checks.training_is_keyed)
        found["resume"] = each_case(checks.resumes_exactly)
        if not card.couples_samples:
            found["micro_batches"] = each_case(checks.micro_batches_add_up)
        if card.autocast:
            found["bfloat16"] = each_case(checks.trains_in_bfloat16)
    return found
