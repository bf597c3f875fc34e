"""Names, near misses, and what a model can do."""

import subprocess
import sys
from importlib.metadata import EntryPoint

import pytest
from torch import nn

from genloom.core import registry
from genloom.core.capabilities import Energy, Likelihood, Sampler, capabilities, need, unwrap
from genloom.core.errors import ConfigError, Diverged, MissingExtra, Unsupported, nearest
from genloom.core.events import Leaf, Real
from genloom.families.baseline_independent import Config


@pytest.mark.parametrize(
    ("typo", "meant"),
    [
        ("flow.nfs", "flow.nsf"),
        ("vae.gausian", "vae.gaussian"),
        ("pixelcnn", "ar.pixelcnn"),
        ("gan.wgan-gp", "gan.wgan_gp"),
    ],
)
def test_a_typo_gets_the_nearest_name(typo: str, meant: str) -> None:
    with pytest.raises(ConfigError, match=f"no family is called '{typo}'; did you mean {meant}\\?"):
        registry.load(typo)


def test_nonsense_gets_no_suggestion() -> None:
    with pytest.raises(ConfigError) as caught:
        registry.module_of("zzzzzz")
    assert "did you mean" not in str(caught.value)
    assert "genloom list" in str(caught.value)
    assert nearest("zzzzzz", ["abc"]) == ""


def test_every_row_loads_and_is_named_alike() -> None:
    assert registry.names()[: len(registry.BUILT_IN)] == list(registry.BUILT_IN)
    for name in registry.BUILT_IN:
        assert registry.load(name).card.name == name
        assert registry.module_of(name) == "genloom.families." + name.replace(".", "_")


def test_naming_families_does_not_import_torch() -> None:
    program = "import sys, genloom; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", program], check=True)


def test_needs_look_through_compile() -> None:
    model = Config().build(Leaf((2,), Real()), None)
    wrapper = nn.Module()
    wrapper._orig_mod = model
    assert unwrap(wrapper) is model
    assert need(wrapper, Sampler, "sample") is model
    assert capabilities(wrapper) == ["Sampler", "Likelihood", "ClosedForm"]
    with pytest.raises(
        Unsupported, match="energy needs a model that offers Energy; this one offers Sampler, Likelihood"
    ):
        need(model, Energy, "energy")
    with pytest.raises(Unsupported, match="offers nothing"):
        need(nn.Linear(1, 1), Likelihood, "log_prob")


def test_errors_are_one_line() -> None:
    assert (
        str(MissingExtra("pyarrow", "tables"))
        == "pyarrow is not installed: run  pip install 'genloom[tables]'"
    )
    error = Diverged("the loss term kl", "elbo", 7)
    assert "\n" not in str(error)
    assert (error.term, error.phase, error.step) == ("the loss term kl", "elbo", 7)


def test_a_family_of_others_that_does_not_import_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    broken = EntryPoint("flow.broken", "no.such.module", registry.GROUP)
    monkeypatch.setattr(registry, "entry_points", lambda group: [broken] if group == registry.GROUP else [])
    with pytest.raises(ConfigError, match=r"flow\.broken cannot be loaded from no\.such\.module"):
        registry.load("flow.broken")
