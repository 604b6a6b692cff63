"""Charts: points lie where their figures say, axes are round, and nothing runs out."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree

import pytest

from sdtune.core.evaluation.charts import HEIGHT, WIDTH, Chart, Line, Point, beside_nought, drawn
from sdtune.core.evaluation.curves import charts, loss_charts
from sdtune.core.evaluation.figures import BY_CONSTRUCTION, FIRST, against_base, between, cell_name, number, shown, told
from sdtune.core.evaluation.intervals import Value
from sdtune.core.evaluation.measures import measures
from sdtune.core.evaluation_reports import Figure
from tests.core.evaluation import outcomes


def chart(*figures: float, reach: float = 0.0, level: float | None = None, lines: int = 1) -> Chart:
    points = tuple(Point(float(x), y, y - reach, y + reach, f"{y}", x == 0) for x, y in enumerate(figures))
    ticks = tuple((float(x), f"{100 * x}") for x in range(len(figures)))
    return Chart("a chart", tuple(Line(kind, (points,)) for kind in range(lines)), ticks, "step", level)


def elements(one: Chart) -> list[ElementTree.Element]:
    return list(ElementTree.fromstring("".join(drawn(one))).iter())


def marks(one: Chart) -> list[tuple[float, float]]:
    found = [element for element in elements(one) if element.get("class") == "mark"]
    return [(float(element.get("cx", "")), float(element.get("cy", ""))) for element in found]


def axis(one: Chart) -> list[tuple[float, float]]:
    """(figure, height) of the labels up the side."""
    labels = [element for element in elements(one) if element.get("text-anchor") == "end"]
    return [(float((label.text or "").replace(",", "")), float(label.get("y", "")) - 4) for label in labels]


@pytest.mark.parametrize("scale", [1e-9, 1e-3, 1.0, 37.0, 1e6])
@pytest.mark.parametrize("shift", [0.0, 1.0, -5.0])
def test_points_lie_where_the_axis_says(scale: float, shift: float) -> None:
    figures = [scale * (shift + one) for one in (0.2, 0.9, 0.5)]
    one = chart(*figures)
    (low, bottom), (high, top) = axis(one)[0], axis(one)[-1]
    assert bottom > top
    for figure, (_, y) in zip(figures, marks(one), strict=True):
        expected = bottom + (top - bottom) * (figure - low) / (high - low)
        assert y == pytest.approx(expected, abs=0.2)


def test_everything_lies_within_the_chart() -> None:
    for one in (
        chart(0.1),
        chart(0.5, 0.5, level=0.5),
        chart(*range(20), reach=1e9, level=-1e3, lines=20),
        chart(0, 1e300),
    ):
        written = "".join(drawn(one))
        assert "nan" not in written
        assert "inf" not in written
        for element in elements(one):
            for name, most in (
                ("x1", WIDTH),
                ("x2", WIDTH),
                ("cx", WIDTH),
                ("y1", HEIGHT),
                ("y2", HEIGHT),
                ("cy", HEIGHT),
            ):
                assert 0 <= float(element.get(name, "0")) <= most
            for pair in (element.get("points") or "0,0").split():
                x, y = map(float, pair.split(","))
                assert 0 <= x <= WIDTH
                assert 0 <= y <= HEIGHT


def test_intervals_far_beyond_the_figures_do_not_flatten_them() -> None:
    ys = [y for _, y in marks(chart(1.0, 2.0, reach=100.0))]
    assert ys[0] - ys[1] > HEIGHT / 8


def test_figures_that_are_none_are_left_out() -> None:
    assert len(marks(chart(1.0, math.nan, 2.0))) == 2
    assert "".join(drawn(chart(math.nan)))


def test_labels_do_not_lie_over_each_other() -> None:
    one = chart(*range(60))
    across = [element for element in elements(one) if element.get("class") == "name"]
    spans = [(float(label.get("x", "")), len(label.text or "")) for label in across]
    assert 5 < len(spans) < 20
    assert all(b - a > 6 * (n + m) / 2 for (a, n), (b, m) in pairwise(spans))


def test_many_points_have_bands_and_few_have_whiskers() -> None:
    few, many = ("".join(drawn(chart(*range(count), reach=1.0))) for count in (3, 12))
    assert 'class="whisker"' in few
    assert 'class="band"' not in few
    assert 'class="band"' in many
    assert 'class="whisker"' not in many


def test_text_in_a_chart_is_letters() -> None:
    hostile = '"><script>alert(1)</script>'
    points = (Point(0.0, 1.0, 0.5, 1.5, hostile),)
    one = Chart(hostile, (Line(0, (points,)),), ((0.0, hostile),), hostile)
    assert {element.tag for element in elements(one)} <= {
        "svg",
        "g",
        "line",
        "path",
        "circle",
        "polyline",
        "text",
        "title",
    }
    assert ElementTree.fromstring("".join(drawn(one))).get("aria-label") == hostile


def test_a_difference_lies_on_the_side_that_it_speaks_for() -> None:
    def at(difference: float, *, mirrored: bool) -> float:
        drawn = beside_nought(Figure(difference, difference - 0.1, difference + 0.1), 0.05, "", mirrored=mirrored)
        return float(re.findall(r'cx="([\d.]+)"', drawn)[0])

    assert at(0.3, mirrored=False) > 80 > at(-0.3, mirrored=False)
    assert at(-0.3, mirrored=True) > 80 > at(0.3, mirrored=True)
    assert "nan" not in beside_nought(Figure(math.nan, math.nan, math.nan), None, "", mirrored=False)


def test_each_measure_has_a_line_for_each_strength_and_the_recommended_point(tmp_path: Path) -> None:
    found = outcomes.outcome(tmp_path)
    measures = shown(["fid", "concept_f1"])
    ((measure, one),) = charts(found, measures, found.ranking[0].cell)
    assert measure.name == "concept_f1"
    assert [len(line.points) for line in one.lines] == [3, 3, 3]
    assert one.level == pytest.approx(0.4)
    assert [point.told.split(":")[0] for line in one.lines for point in line.points if point.chosen] == [
        "step 900 at strength 1"
    ]
    two = next(charts(outcomes.outcome(tmp_path, subjects=2), measures, None))[1]
    assert [len(stretch) for stretch in two.lines[0].stretches] == [3, 3]  # runs are not joined
    assert [label for _, label in two.ticks] == ["", "cats-1", "", "", "cats-2", ""]


def test_the_losses_of_a_run_are_told_in_per_cent(tmp_path: Path) -> None:
    found = outcomes.outcome(tmp_path)
    ((name, said, one),) = loss_charts(found, None)
    assert name == "cats-1"
    assert said == "held out was least at step 600 (-14 %) and rose to +2 % at step 900: over-fitted"
    falling = {"cats-1": [(step, 1 - step / 3000, 1 - step / 2000) for step in range(100, 1000, 100)]}
    assert "not over-fitted (-30 %)" in next(loss_charts(replace(found, curves=falling), None))[1]
    assert one.lines[1].points[0].estimate == pytest.approx(-5.0)


def test_figures_are_told_with_sensible_digits() -> None:
    assert told(Value(0.8199, 0.7101, 0.9, 1, 1), 2) == "0.82 (0.71 to 0.90)"
    assert told(Value(12345.6, math.nan, math.nan, 1, 0), 1) == "12,345.6 (no interval)"
    assert number(-0.0001, 2) == "0.00"
    assert number(0.31, 2, signed=True) == "+0.31"
    assert number(math.nan, 2) == "no figure"
    assert between(Figure(1, 0.5, 1.5), 1) == "0.5 to 1.5"


@pytest.mark.parametrize(
    ("change", "name", "floor", "word"),
    [
        ((0.2, 0.1, 0.3), "closeness", None, "better"),
        ((0.2, 0.1, 0.3), "loss", None, "worse"),
        ((-0.2, -0.3, -0.1), "loss", 0.1, "better"),
        ((0.2, 0.1, 0.3), "vendi", None, ""),
        ((0.2, 0.1, 0.3), "concept_f1", None, ""),
        ((0.2, 0.1, 0.3), "drift", None, ""),
        ((0.2, -0.1, 0.5), "closeness", None, ""),
        ((0.2, 0.1, 0.3), "closeness", 0.25, ""),
        ((0.2, math.nan, math.nan), "closeness", None, ""),
    ],
)
def test_a_change_is_better_only_beyond_its_interval_and_noise(
    change: tuple[float, float, float], name: str, floor: float | None, word: str
) -> None:
    (measure,) = shown([name])
    assert against_base(measure, Value(*change, 20, 12), floor) == word


def test_measures_are_known_and_the_most_telling_come_first() -> None:
    assert not {*FIRST, *BY_CONSTRUCTION} - set(measures())
    assert [one.name for one in shown(["kid", "loss", "copies", "closeness"])] == ["closeness", "copies", "loss", "kid"]


def test_cells_have_names(tmp_path: Path) -> None:
    found = outcomes.outcome(tmp_path, steps=(300,))
    assert [cell_name(found.case, one.cell) for one in found.cells[:2]] == ["base model", "step 300 at strength 0.5"]
