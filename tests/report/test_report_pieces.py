"""Terminal table, charts, scales, numbers and the model card."""

import io
import itertools
import math
from xml.etree import ElementTree

import pytest
from rich.console import Console

from genloom.report.card import model_card
from genloom.report.curves import Point, Series, chart, scatter
from genloom.report.numbers import decimals, duration, number, pair, short, tick_labels
from genloom.report.scale import Scale, fit
from genloom.report.terminal import leaderboard, remarks

SVG = "{http://www.w3.org/2000/svg}"


def printed(results, width):
    console = Console(file=io.StringIO(), width=width)
    console.print(leaderboard(results, width))
    return console.file.getvalue().splitlines()


@pytest.mark.parametrize("width", [60, 80, 100, 200])
def test_table_fits_and_cuts_nothing(results, width):
    text = printed(results, width)
    assert max(len(line) for line in text) <= width
    assert not any("…" in line or "\x1b" in line for line in text)
    for row in results["rows"]:
        shown = row["title"] if row["role"] == "reference" else row["name"]
        assert sum(shown in line for line in text) == 1


def test_wider_tables_show_more(results):
    assert "likelihood" in "".join(printed(results, 80))
    assert "Precision" not in "".join(printed(results, 80))
    assert "Precision" in "".join(printed(results, 100))
    assert "params" in "".join(printed(results, 200))


def test_table_labels_ranks_kinds_and_status(results):
    text = {line.split()[1]: line for line in printed(results, 100) if len(line.split()) > 2}
    assert text["mixture.gmm"].startswith("1 ")
    assert "9.8 [8.9–10.8]" in text["mixture.gmm"]
    assert "≤96.10" in text["diffusion.ddpm"]
    assert "88.20|class" in text["ar.pixelcnn"]
    assert text["energy.ebm"].startswith("–")
    assert "(failed)" in text["energy.ebm"]
    assert "(copying)" in text["kernel.kde"]


def test_table_takes_hostile_and_long_names(results):
    results["rows"][0]["name"] = "[bold red]x[/]"
    results["rows"][1]["name"] = "y" * 90
    text = "\n".join(printed(results, 80))
    assert "[bold red]x[/]" in text
    assert "y" * 25 in text


def test_remarks_name_what_is_not_in_the_ranking(results):
    said = "\n".join(remarks(results))
    for part in ("a well-fitted mixture", "NaN at step 412", "text.transformer was skipped", "sampling only"):
        assert part in said


def points(svg):
    """The vertices of every line of a chart."""
    paths = list(ElementTree.fromstring(svg).iter(f"{SVG}path"))
    return [[tuple(map(float, at.split())) for at in path.get("d")[1:].split("L")] for path in paths]


def test_chart_is_xml_with_labels_dashes_and_markers():
    svg = chart([Series("a<b", [0, 1], [2, 1]), Series("c", [0, 1], [1, 2])], x_title="s", y_title="nats")
    tree = ElementTree.fromstring(svg)
    words = [text.text for text in tree.iter(f"{SVG}text")]
    assert {"a<b", "c", "s", "nats"} <= set(words)
    assert len({path.get("stroke-dasharray") for path in tree.iter(f"{SVG}path")}) == 2
    assert len(list(tree.iter(f"{SVG}circle"))) == len(list(tree.iter(f"{SVG}polygon"))) == 1


def test_chart_places_points_in_proportion():
    (line,) = points(chart([Series("a", [0, 5, 10], [0.0, 5.0, 10.0])], x_title="", y_title=""))
    (x0, y0), (x1, y1), (x2, y2) = line
    assert x0 < x1 < x2
    assert y0 > y1 > y2
    assert x1 - x0 == pytest.approx(x2 - x1, abs=0.11)
    assert y0 - y1 == pytest.approx(y1 - y2, abs=0.11)
    (line,) = points(chart([Series("a", [0, 1, 10, 100], [0, 1, 2, 3])], x_title="", y_title="", log_x=True))
    assert line[1][0] - line[0][0] == pytest.approx(line[2][0] - line[1][0], abs=0.11)


def test_chart_drops_what_is_not_finite_and_says_what_it_cuts():
    ys = [1e9, *[2.0 - i / 50 for i in range(40)], math.nan, math.inf]
    svg = chart([Series("a", list(range(43)), ys)], x_title="", y_title="loss")
    assert "nan" not in svg
    assert "loss (extremes cut)" in svg
    assert len(points(svg)[0]) == 41
    assert chart([Series("a", [1.0], [math.nan])], x_title="", y_title="") == ""
    assert chart([], x_title="", y_title="") == ""


def test_chart_thins_long_lines_but_keeps_their_ends():
    (line,) = points(chart([Series("a", range(5001), range(5001))], x_title="", y_title=""))
    assert len(line) <= 242
    assert line[-1][0] == max(x for x, _ in line)


def test_labels_of_close_lines_do_not_overlap():
    series = [Series(name, [0, 1], [1, 0.001 * i]) for i, name in enumerate("abcde")]
    tree = ElementTree.fromstring(chart(series, x_title="", y_title=""))
    heights = sorted(float(t.get("y")) for t in tree.iter(f"{SVG}text") if t.text in list("abcde"))
    assert all(low - high >= 12.9 for high, low in itertools.pairwise(heights))


def test_scatter_names_every_point_once():
    crowd = [Point(f"model {i}", 10.0 ** (i % 3), 5.0 + i % 2, quiet=i == 3) for i in range(6)]
    tree = ElementTree.fromstring(scatter(crowd, x_title="s", y_title="F", floor=3.0))
    words = [text.text for text in tree.iter(f"{SVG}text")]
    assert all(words.count(point.name) == 1 for point in crowd)
    assert "real test data" in words
    assert scatter([], x_title="", y_title="") == ""


def test_scale_is_logarithmic_from_a_ratio_of_twenty():
    assert not fit([1.0, 19.0]).log
    assert fit([1.0, 21.0]).log
    assert not fit([-1.0, 100.0]).log
    assert Scale(1.0, 100.0, log=True).at(10.0) == pytest.approx(0.5)
    assert Scale(0.0, 4.0).at(1.0) == 0.25
    assert fit([3.0, 3.0]).at(3.0) == pytest.approx(0.5)


@pytest.mark.parametrize(("lo", "hi"), [(0.0, 1.0), (0.1, 0.13), (-3.0, 70.0), (91.0, 400.0)])
def test_ticks_are_round_inside_and_about_as_many_as_asked(lo, hi):
    ticks = Scale(lo, hi).ticks(4)
    assert 2 <= len(ticks) <= 7
    assert all(lo <= tick <= hi for tick in ticks)
    assert len(set(tick_labels(ticks, log=False))) == len(ticks)


def test_numbers_read_well():
    assert [short(x) for x in (2_411_000, 18_560, 512, 0.1234, 0)] == [
        "2.41 M",
        "18.6 k",
        "512",
        "0.123",
        "0",
    ]
    assert [duration(x) for x in (0.002, 14.62, 263, 0)] == ["2.00 ms", "14.6 s", "4 min 23 s", "0 s"]
    assert [number(-1.25, 1), number(None, 2), number(12345.6, 0)] == ["−1.2", "–", "12,346"]
    assert [pair((1.0, 2.0), 1), pair((-1.0, 2.0), 1)] == ["1.0–2.0", "−1.0 to 2.0"]
    assert tick_labels([0.001, 0.1, 10], log=True) == ["0.001", "0.1", "10"]


def test_decimals_follow_the_interval():
    def rows(value, half):
        return [{"figures": {"x": {"value": value, "lo": value - half, "hi": value + half}}}]

    assert decimals(rows(12.3456, 1.2), "x") == 1
    assert decimals(rows(0.81234, 0.02), "x") == 3
    assert decimals(rows(1234.5, 80.0), "x") == 0
    assert decimals([{"figures": {"x": {"value": 0.123}}}], "x") == 3
    assert decimals([], "x") == 2


def test_model_card_says_what_is_known_and_escapes():
    card = {
        "name": "flow.nsf",
        "title": "Neural spline flow",
        "summary": "An invertible <network>.",
        "good_at": ["tables"],
        "bad_at": ["large images"],
        "likelihood": "exact",
        "references": ["Durkan et al. 2019"],
    }
    run = {"config": {"bins": 8}, "data": {"name": "a|b", "sizes": {"train": 9}}, "seed": 0}
    text = model_card(card, run)
    for part in (
        "# Neural spline flow",
        "&lt;network>",
        "- large images",
        '"bins": 8',
        "name a\\|b, sizes train 9",
    ):
        assert part in text
    assert "budget" not in text
    assert model_card({"name": "x"}, {}) == "# x\n\n`x`.\n\n## Likelihood\n\nnone\n"
