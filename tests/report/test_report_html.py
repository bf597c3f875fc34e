"""The HTML report: well formed, self-contained, escaped, complete, and honest about ranks."""

import copy
import json
import re
from html.parser import HTMLParser

import pytest

from genloom.core.errors import DataError
from genloom.report.html import render
from genloom.report.words import coverage, sign, ties

VOID = {"meta", "img", "input", "br"}
LOADS = {"src", "srcset", "data", "action", "poster", "xlink:href"}


class Page(HTMLParser):
    """Collects elements, attributes and text, and fails on tags that do not balance."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.words, self.rows = [], [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag == "tr":
            self.rows.append((dict(attributes), []))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)
        if "tr" in self.open:
            self.rows[-1][1].append(data)

    def all(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.fixture
def page(results, pictures):
    return Page(render(results, pictures))


def test_page_is_one_balanced_document(page):
    assert [name for name, _ in page.tags].count("html") == 1
    assert len(page.all("h1")) == 1


def test_ids_are_unique_and_links_reach_them(page):
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    inner = [a["href"][1:] for a in page.all("a") if a["href"].startswith("#")]
    assert inner
    assert set(inner) <= set(ids)


def test_page_loads_nothing(page, results, pictures):
    assert not page.all("script")
    assert not page.all("link")
    for _, attributes in page.tags:
        assert all(attributes[name].startswith("data:") for name in LOADS & attributes.keys())
        assert not any(name.startswith("on") for name in attributes)
    outer = [a["href"] for a in page.all("a") if not a["href"].startswith("#")]
    assert all(address.startswith("https://arxiv.org/abs/") for address in outer)
    css = re.search("<style>(.*?)</style>", render(results, pictures), re.S)[1]
    assert "url(" not in css
    assert "@import" not in css


def test_pictures_tables_and_charts_say_what_they_are(page):
    assert all(image["alt"] for image in page.all("img"))
    assert len(page.all("caption")) == len(page.all("table"))
    assert all("scope" in header for header in page.all("th"))
    for drawing in page.all("svg"):
        if drawing.get("class") in ("chart", "bar"):
            assert drawing.get("aria-label") or drawing.get("aria-hidden")


def poison(value):
    """Every free text of the results becomes hostile; keys and closed vocabularies stay."""
    closed = {"key", "better", "role", "status", "kind", "rank_by"}
    if isinstance(value, dict):
        return {key: inner if key in closed else poison(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [poison(inner) for inner in value]
    return f'{value}"><script>alert(1)</script>&' if isinstance(value, str) else value


def test_hostile_strings_stay_text(results, pictures):
    hostile = poison(results)
    names = {row["name"]: bad["name"] for row, bad in zip(results["rows"], hostile["rows"], strict=True)}
    text = render(hostile, {names.get(key, key): picture for key, picture in pictures.items()})
    assert not Page(text).all("script")
    assert "<script" not in text
    assert "mixture.gmm&quot;&gt;&lt;script&gt;" in text


def test_a_citation_cannot_leave_its_link(results, pictures):
    results["rows"][0]["references"] = ['x" onload="y, arXiv:2006.11239"><b>']
    page = Page(render(results, pictures))
    assert {"href": "https://arxiv.org/abs/2006.11239", "rel": "noreferrer"} in page.all("a")
    assert {} not in page.all("a")


def test_every_digest_and_method_appears(page, results):
    words = " ".join(page.words)
    for column in results["columns"]:
        assert column["how"] in words
    for row in results["rows"]:
        for figure in row["figures"].values():
            assert figure["fingerprint"]["digest"] in words


def test_figures_of_several_digests_are_called_incomparable(results, pictures):
    warning = "Several digests"
    assert warning not in render(results, pictures)
    results["rows"][1]["figures"]["recall"]["fingerprint"]["digest"] = "feedbeef0000"
    text = render(results, pictures)
    assert text.count(warning) == 1
    assert "feedbeef0000" in text


def lines(page, name):
    return [words for _, words in page.rows if name in words]


def test_rows_stand_in_rank_order_and_the_rest_hold_none(results, pictures):
    for row in results["rows"]:
        if row["status"] != "ok":
            row["rank"] = 1
    results["rows"].reverse()
    page = Page(render(results, pictures))
    ranked = [row for row in reversed(results["rows"]) if row["status"] == "ok"]
    board = [words for _, words in page.rows if words and words[0] in "12345678"][: len(ranked)]
    assert [words[2] for words in board] == [row["name"] for row in ranked]
    for name in ("energy.ebm", "kernel.kde", "real", "copies"):
        assert lines(page, name)[0][0] == "–"


def test_unranked_models_say_why(page, results):
    words = " ".join(page.words)
    for row in results["rows"]:
        assert row["why"] in words
    for skipped in results["skipped"]:
        assert skipped["reason"] in words
    assert "failed" in lines(page, "energy.ebm")[0]


def test_likelihoods_rank_by_kind_and_condition(page):
    def place(name):
        return lines(page, name)[1][0]

    assert [place(name) for name in ("mixture.gmm", "baseline.independent")] == ["1", "2"]
    assert place("ar.pixelcnn") == place("flow.matching") == place("diffusion.ddpm") == "1"
    assert place("kernel.kde") == "–"
    assert "≤ 96.10" in lines(page, "diffusion.ddpm")[1]
    assert "exact, given class" in lines(page, "ar.pixelcnn")[1]


@pytest.mark.parametrize(
    ("kind", "better", "expected"),
    [
        ("lower_bound", "lower", "≤"),
        ("upper_bound", "lower", "≥"),
        ("lower_bound", "higher", "≥"),
        ("estimate", "lower", "≈"),
        ("exact", "lower", ""),
    ],
)
def test_the_sign_of_a_bound_follows_the_direction(kind, better, expected):
    assert sign({"key": "nll", "title": "", "better": better}, {"value": 1.0, "kind": kind}) == expected


def test_intervals_say_what_they_cover(results):
    assert "cover sampling only" in coverage(results)
    assert "spread between these runs" in coverage(results | {"seeds": [0, 1, 2]})


def test_an_unsettled_first_place_is_said(results):
    assert "Gaussian mixture overlaps that of Denoising diffusion." in ties(results)
    results["rows"][1]["figures"]["frechet"]["lo"] = 11.1
    assert ties(results) == ""


def test_seeds_are_drawn_only_if_several(results, pictures):
    def count(text):
        return len([svg for svg in Page(text).all("svg") if svg.get("class") == "seed"])

    assert count(render(results, pictures)) == 0
    results["seeds"] = [0, 1, 2]
    results["rows"][0]["per_seed"] = {"frechet": [9.1, 9.9, 10.3]}
    assert count(render(results, pictures)) == 3


def test_missing_figures_costs_and_curves(results, pictures):
    for row in results["rows"][:4]:
        row["figures"] = {"frechet": {"value": float("nan")}, "nll": {"value": None}}
        row["curves"] = []
        row["cost"] = {}
    results["rows"][4]["curves"] = [{"step": 0, "seconds": 0.0, "train": None, "valid": float("nan")}]
    results["rows"][5]["figures"]["nll"] |= {"value": "inf", "hi": "inf"}
    page = Page(render(results, pictures))
    assert "∞" in lines(page, "vae.gaussian")[1]
    assert "nan" not in " ".join(page.words).lower().replace("nan at step", "")


def test_the_least_results(results):
    bare = {
        key: results[key]
        for key in ("version", "budget", "seeds", "machine", "command", "started", "seconds")
    }
    row = {
        "name": "a",
        "title": "A",
        "role": "model",
        "status": "ok",
        "rank": 1,
        "figures": {"x": {"value": 1.0}},
    }
    column = {"key": "x", "title": "X", "better": "lower"}
    bare |= {"data": {"name": "d"}, "columns": [column], "rank_by": "x", "rows": [row]}
    page = Page(render(bare, {}))
    assert lines(page, "a")[0][:2] == ["1", "A"]
    assert not page.all("img")
    Page(render(bare | {"rows": []}, {}))


def test_results_survive_json(results, pictures):
    assert render(json.loads(json.dumps(results)), pictures) == render(copy.deepcopy(results), pictures)


def test_svg_pictures_are_images(results):
    hostile = b'<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>'
    page = Page(render(results, {"real": ("image/svg+xml", hostile)}))
    assert page.all("img")[0]["src"].startswith("data:image/svg+xml;base64,")
    assert not page.all("script")


def test_unknown_media_version_and_ranking_are_refused(results):
    with pytest.raises(DataError, match="text/html"):
        render(results, {"real": ("text/html", b"")})
    with pytest.raises(DataError, match="version 2"):
        render(results | {"version": 2}, {})
    with pytest.raises(DataError, match="taste"):
        render(results | {"rank_by": "taste"}, {})
