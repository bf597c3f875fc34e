"""The pages say what is true: links lead somewhere, commands parse, code runs, tables match the registry."""

import ast
import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from genloom.cli.main import app
from genloom.cli.settings import with_config
from genloom.core import registry

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
GUIDES = [ROOT / "README.md", ROOT / "docs" / "quickstart.md"]


def blocks(page: Path, language: str) -> list[str]:
    """Return the fenced blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", page.read_text(), re.S | re.M)


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if not target.startswith(("http://", "https://", "#")):
            assert (page.parent / target.partition("#")[0]).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_paths_in_prose_exist(page: Path) -> None:
    for target in re.findall(r"`((?:docs|tests|src)/[\w/.-]+)`", page.read_text()):
        assert (ROOT / target).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_python_parses(page: Path) -> None:
    for code in blocks(page, "python"):
        ast.parse(code)


def commands(page: Path) -> Iterator[str]:
    """Yield every genloom command in a page's shell blocks and tables."""
    for block in blocks(page, "sh"):
        for line in block.splitlines():
            yield from (part.strip() for part in line.partition("#")[0].split(";"))
    for row in re.findall(r"^\|.*\|$", page.read_text(), re.M):
        yield from re.findall(r"`(genloom [^`]+)`", row)


@pytest.mark.parametrize("page", GUIDES, ids=lambda p: p.name)
def test_commands_parse(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for block in blocks(page, "yaml"):
        (tmp_path / "run.yaml").write_text(block)
    found = [shlex.split(command)[1:] for command in commands(page) if command.startswith("genloom ")]
    prose = re.findall(r"(?:with|as)\s+`?(genloom [a-z]+ [^`\n]*)", "".join(blocks(page, "yaml")))
    found += [shlex.split(command)[1:] for command in prose]
    assert len(found) >= 5
    for tokens in found:
        app().parse_args(with_config(tokens))


def test_flags_in_prose_are_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run.yaml").write_text("")
    flags = {f for page in GUIDES for f in re.findall(r"`(--[a-z][^`]*)`", page.read_text())}
    assert len(flags) >= 5
    for flag in flags:
        tokens = shlex.split(flag.replace(" N", " 3"))
        app().parse_args(with_config(["fit", "vae.gaussian", "digits", *tokens]))


def test_the_readme_lists_every_family_with_its_kind() -> None:
    rows = re.findall(r"^\| `([\w.]+)` \| [^|]+ \| ([^|]+) \|$", (ROOT / "README.md").read_text(), re.M)
    assert {name for name, _ in rows} == set(registry.BUILT_IN)
    for name, kind in rows:
        likelihood = registry.load(name).card.likelihood
        expected = "none" if likelihood is None else likelihood.value.replace("_", " ")
        assert kind.removesuffix("density").strip() == expected, name


def test_decisions_are_numbered_without_gaps() -> None:
    names = sorted(p.name for p in (ROOT / "docs" / "adr").iterdir())
    for number, name in enumerate(names, 1):
        assert re.fullmatch(rf"{number:04d}-[a-z0-9]+(-[a-z0-9]+)*\.md", name), name


def test_the_family_of_the_guide_keeps_its_promises(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module, check = blocks(ROOT / "docs" / "add-a-family.md", "python")
    (tmp_path / "gauss_of_the_guide.py").write_text(module)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(registry.BUILT_IN, "toy.gauss", "gauss_of_the_guide")  # type: ignore[arg-type]
    try:
        exec(check, {})
    finally:
        sys.modules.pop("gauss_of_the_guide", None)
