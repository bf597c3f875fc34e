"""A family in another package is found by its entry point; and the kit catches families that lie."""

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from genloom.core import registry
from genloom.core.errors import ConfigError
from genloom.testing import check_family, checks_for

SOURCE = Path(__file__).with_name("outsider.py").read_text()


@pytest.fixture(autouse=True)
def _forget_modules() -> Iterator[None]:
    yield
    for name in [n for n in sys.modules if n.startswith("outsiders")]:
        del sys.modules[name]


def publish(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str) -> str:
    """Install a family in a package of its own, and return its registry name."""
    package = tmp_path / "outsiders"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "family.py").write_text(source)
    facts = tmp_path / "outsiders-1.0.dist-info"
    facts.mkdir()
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: outsiders\nVersion: 1.0\n")
    (facts / "entry_points.txt").write_text("[genloom.families]\nflow.outsider = outsiders.family\n")
    monkeypatch.syspath_prepend(tmp_path)
    importlib.invalidate_caches()
    return "flow.outsider"


def test_entry_point_is_found_and_conforms(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = publish(tmp_path, monkeypatch, SOURCE)
    assert registry.names()[-1] == name
    assert registry.load(name).card.title == "Outsider"
    passed = check_family(name)
    verbs = {"invertible", "likelihood", "infill"}
    assert {"card", "training", "resume", "independence", "labels"} | verbs <= set(passed)
    assert not {"closed_form", "energy", "denoiser", "bfloat16"} & set(passed)


FAULTS = {
    "another name": ("card", 'name="flow.outsider"', 'name="flow.insider"'),
    "no reference": (
        "card",
        'references=(card.Reference("Gauss", 1809, "Theoria motus", "Hamburg"),)',
        "references=()",
    ),
    "a likelihood it hides": ("card", "    likelihood=Bound.EXACT,\n", ""),
    "a likelihood of another kind": ("likelihood", "likelihood=Bound.EXACT", "likelihood=Bound.LOWER"),
    "labels it ignores": (
        "labels",
        "if cond is None else tensor(cond)\n        return self.shift[label]",
        "\n        return self.shift[label]",
    ),
    "unknown settings accepted": (
        "config",
        "    lr: float",
        '    model_config = {"extra": "ignore"}\n    lr: float',
    ),
    "a changeable configuration": (
        "config",
        "    lr: float",
        '    model_config = {"frozen": False}\n    lr: float',
    ),
    "any event accepted by build": ("refusal", "if not card.real(event)", "if event is None"),
    "a dead parameter": (
        "training",
        "        self.log_scale =",
        "        self.dead = nn.Parameter(torch.ones(2))\n        self.log_scale =",
    ),
    "a part that no group trains": ("training", "Group(model, ", "Group(nn.ParameterList([model.shift]), "),
    "samples of another shape": ("samples", ".view(-1, *self.shape)", ".view(-1, self.dim, 1)"),
    "samples that see each other": (
        "independence",
        "return self.decode(noise.normal(self.dim).to(self.shift), cond)",
        "z = noise.normal(self.dim).to(self.shift)\n        return self.decode(z - z.mean(0), cond)",
    ),
    "infilling over what is known": ("infill", "torch.where(tensor(known), tensor(x), ", "torch.add(0, "),
    "infilling with what is not known": ("infill", "tensor(self.sample(noise, cond)))", "tensor(x))"),
    "infilling that sees others": (
        "infill",
        "tensor(x), tensor(self",
        "tensor(x), (tensor(x) * tensor(known)).sum() + tensor(self",
    ),
    "unkeyed samples": ("sample_count", "noise.normal(self.dim)", "torch.randn_like(noise.normal(self.dim))"),
    "an unkeyed loss": ("keyed", "(noise.uniform() < 0.3", "(torch.rand(len(x)) < 0.3"),
    "a sum for a loss": ("micro_batches", "cond).mean()}", "cond).sum()}"),
    "a wrong log-determinant": ("invertible", "-log_scale.sum(1)", "-log_scale.mean(1)"),
    "a wrong inverse": ("invertible", "z * log_scale.exp() + shift", "z * log_scale.exp() - shift"),
    "scores that see each other": ("likelihood", "return log_det - ", "return log_det * z.mean() - "),
    "a broadcast": (
        "likelihood_shapes",
        "x = items(x, self.shape).flatten(1)",
        "x = x.flatten(1).expand(len(x), self.dim) if x.flatten(1).shape[1] in (1, self.dim) else x",
    ),
    "one number for a batch": ("likelihood", ".sum(1)\n\n    def log_prob", ".sum()\n\n    def log_prob"),
    "state outside the weights": (
        "weights",
        "        self.log_scale =",
        "        self.secret = float(torch.rand(()))\n        self.log_scale =",
    ),
    "another behaviour in training": (
        "modes",
        "return LogProb(self.log_density(tensor(x), cond)",
        "return LogProb(self.log_density(tensor(x), cond) * (1 + self.training)",
    ),
    "float32 only": (
        "float64",
        "noise.normal(self.dim).to(self.shift), cond)",
        "noise.normal(self.dim), cond).float()",
    ),
    "memory that is not saved": (
        "resume",
        "            return Loss({",
        "            model.calls = getattr(model, 'calls', 0) + 1\n"
        "            x = x * model.calls\n"
        "            return Loss({",
    ),
}
EXTRA = {"state outside the weights": (", -log_scale.sum(1)", ", self.secret - log_scale.sum(1)")}


@pytest.mark.parametrize("fault", FAULTS)
def test_kit_catches(fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    caught_by, good, bad = FAULTS[fault]
    source = SOURCE
    for old, new in [(good, bad), *([EXTRA[fault]] if fault in EXTRA else [])]:
        assert old in source
        source = source.replace(old, new)
    checks = {c.name: c for c in checks_for(publish(tmp_path, monkeypatch, source))}
    with pytest.raises(AssertionError, match=f"flow.outsider-{caught_by}: "):
        checks[caught_by]()


def test_broken_build_is_one_failing_check(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = publish(tmp_path, monkeypatch, SOURCE.replace("return Model(", "return Modell("))
    (check,) = checks_for(name)
    with pytest.raises(AssertionError, match=r"flow\.outsider-build: NameError"):
        check()


def test_events_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    choosy = SOURCE.replace("events=(card.real,)", "events=(card.leaf_of(card.Real, rank=2),)")
    name = publish(tmp_path, monkeypatch, choosy)
    with pytest.raises(AssertionError, match="pass events="):
        check_family(name)
    from genloom.core.events import Leaf, Real

    assert "invertible" in check_family(name, events={"matrix": Leaf((2, 2), Real())})


def test_module_without_a_card_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = publish(tmp_path, monkeypatch, "Config = None")
    with pytest.raises(ConfigError, match="must define CARD and Config"):
        registry.load(name)
