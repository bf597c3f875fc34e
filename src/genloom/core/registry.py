"""The registry: one row a family, loaded when asked for; other packages add rows by entry point."""

import importlib
from collections.abc import Mapping
from importlib.metadata import entry_points

from pydantic import ValidationError

from genloom.core.card import Config, Family, ModelRef
from genloom.core.errors import ConfigError, complaint, nearest
from genloom.core.events import Event

BUILT_IN: Mapping[str, str] = {
    "baseline.independent": "genloom.families.baseline_independent",
    "baseline.chow_liu": "genloom.families.baseline_chow_liu",
    "baseline.gmm": "genloom.families.baseline_gmm",
    "baseline.kde": "genloom.families.baseline_kde",
    "ar.made": "genloom.families.ar_made",
    "ar.pixelcnn": "genloom.families.ar_pixelcnn",
    "ar.pixelcnnpp": "genloom.families.ar_pixelcnnpp",
    "ar.pixelrnn": "genloom.families.ar_pixelrnn",
    "ar.pixelsnail": "genloom.families.ar_pixelsnail",
    "ae.plain": "genloom.families.ae_plain",
    "ae.denoising": "genloom.families.ae_denoising",
    "ae.regularised": "genloom.families.ae_regularised",
    "vae.gaussian": "genloom.families.vae_gaussian",
    "vae.iwae": "genloom.families.vae_iwae",
    "vae.conditional": "genloom.families.vae_conditional",
    "vae.hierarchical": "genloom.families.vae_hierarchical",
    "vae.flow": "genloom.families.vae_flow",
    "vae.vq": "genloom.families.vae_vq",
    "hybrid.aae": "genloom.families.hybrid_aae",
    "hybrid.vaegan": "genloom.families.hybrid_vaegan",
    "gan.wgan_gp": "genloom.families.gan_wgan_gp",
    "flow.circular": "genloom.families.flow_circular",
    "flow.cnf": "genloom.families.flow_cnf",
    "flow.glow": "genloom.families.flow_glow",
    "flow.iaf": "genloom.families.flow_iaf",
    "flow.maf": "genloom.families.flow_maf",
    "flow.nice": "genloom.families.flow_nice",
    "flow.nsf": "genloom.families.flow_nsf",
    "flow.realnvp": "genloom.families.flow_realnvp",
    "diffusion.ddpm": "genloom.families.diffusion_ddpm",
    "diffusion.edm": "genloom.families.diffusion_edm",
    "diffusion.flow_matching": "genloom.families.diffusion_flow_matching",
    "diffusion.latent": "genloom.families.diffusion_latent",
    "diffusion.consistency": "genloom.families.diffusion_consistency",
    "diffusion.discrete": "genloom.families.diffusion_discrete",
    "energy.rbm": "genloom.families.energy_rbm",
    "seq.ngram": "genloom.families.seq_ngram",
    "seq.lstm": "genloom.families.seq_lstm",
    "seq.gpt": "genloom.families.seq_gpt",
    "seq.ssm": "genloom.families.seq_ssm",
    "seq.vae": "genloom.families.seq_vae",
    "seq2seq.rnn": "genloom.families.seq2seq_rnn",
    "seq2seq.transformer": "genloom.families.seq2seq_transformer",
}

SHOWN = frozenset(
    (
        "baseline.independent",
        "baseline.gmm",
        "baseline.kde",
        "ar.pixelcnn",
        "vae.gaussian",
        "gan.wgan_gp",
        "flow.nsf",
        "flow.realnvp",
        "diffusion.ddpm",
        "energy.rbm",
        "seq.ngram",
        "seq.lstm",
        "seq.gpt",
        "seq2seq.rnn",
        "seq2seq.transformer",
    )
)
"""One or two of each kind: what a comparison shows unless told otherwise, so that it takes minutes."""

GROUP = "genloom.families"
"""Entry-point group: name = registry name, value = a module that defines ``CARD`` and ``Config``."""


def names() -> list[str]:
    """Return the registered family names, built-in ones first."""
    added = sorted(e.name for e in entry_points(group=GROUP) if e.name not in BUILT_IN)
    return [*BUILT_IN, *added]


def shown() -> list[str]:
    """Return what a comparison shows unless told otherwise: ``SHOWN``, and families of other packages."""
    return [name for name in names() if name in SHOWN or name not in BUILT_IN]


def module_of(name: str) -> str:
    """Return the module that defines a family, without importing it.

    Raises:
        ConfigError: no such family; the nearest name is offered.
    """
    if name in BUILT_IN:
        return BUILT_IN[name]
    for entry in entry_points(group=GROUP):
        if entry.name == name:
            return entry.value
    raise ConfigError(f"no family is called {name!r}{nearest(name, names())}  (genloom list shows all)")


def load(name: str) -> Family:
    """Import a family.

    Raises:
        ConfigError: no such family, or its module cannot be imported or lacks ``CARD`` or ``Config``.
    """
    path = module_of(name)
    try:
        module = importlib.import_module(path)
    except Exception as error:
        if name in BUILT_IN:
            raise
        raise ConfigError(f"{name} cannot be loaded from {path} ({type(error).__name__}: {error})") from error
    try:
        return Family(card=module.CARD, config=module.Config)
    except AttributeError as error:
        raise ConfigError(f"{module.__name__} must define CARD and Config to be a family") from error


def settings_of(part: ModelRef, event: Event) -> Config:
    """Return the settings of a part: its family's preset for an event, and its own on top.

    Raises:
        ConfigError: there is no such family, or it does not take the settings.
    """
    config = load(part.family).config
    try:
        return config(**{**config.preset(event).model_dump(), **part.settings})
    except ValidationError as error:
        raise ConfigError(f"{part.family}: {complaint(error.errors())}") from error
