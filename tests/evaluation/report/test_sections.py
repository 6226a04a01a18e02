"""The report holds all it shows, says what was not done, and puts the label where it is."""

from __future__ import annotations

import base64
import html
import io
import math
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread

from medseg.evaluation import Evaluation, ScoreSettings, score_case
from medseg.evaluation.practice import PracticeCard
from medseg.evaluation.report import charts
from medseg.evaluation.report.page import Section, write_report
from medseg.evaluation.report.sections import (
    Scene,
    agreement_section,
    cases_section,
    curves_section,
    facts_section,
    overlays_section,
    paths_section,
    practice_section,
    scores_section,
    showcase,
    timings_section,
    training_section,
)
from medseg.evaluation.report.slices import overlay
from medseg.evaluation.result import CaseScores

AFFINE = np.diag([1.0, 1.0, 2.0, 1.0])


class _Addresses(HTMLParser):
    """Every address that a browser would fetch, and every tag that could run something."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.tags: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.addresses += [
            value or "" for key, value in attrs if key in ("src", "href", "xlink:href", "data", "action")
        ]


def _evaluation() -> Evaluation:
    cases = []
    regions: dict[str, tuple[int, ...]] = {"left <ventricle>": (1,), "tumour": (2,)}
    for i in range(4):
        reference = np.zeros((12, 12, 8), dtype=np.uint8)
        reference[2:8, 2:8, 2:6] = 1
        prediction = np.roll(reference, i, axis=0)
        scores = score_case(reference, prediction, spacing=(1, 1, 2), regions=regions)
        cases.append(CaseScores(f"case_{i}", scores))
    return Evaluation(cases, regions, ScoreSettings(), failed={"case_9": "no voxels"})


def _scene() -> Scene:
    image = np.random.default_rng(0).normal(size=(20, 18, 10)).astype(np.float32)
    reference = np.zeros(image.shape, dtype=np.uint8)
    reference[4:9, 5:12, 3:6] = 1
    return Scene("case_0", image, np.roll(reference, 1, axis=0), reference, AFFINE)


def test_page_is_self_contained_and_complete(tmp_path: Path) -> None:
    sections = [
        scores_section(_evaluation()),
        overlays_section([_scene()], {1: "ventricle"}),
        training_section([{"epoch": 0.0, "train_loss": 1.2}, {"epoch": 1.0, "train_loss": 0.7, "val_dice": 0.5}]),
        timings_section({"training": 12.25, "prediction": 1.75}),
        paths_section({"bundle": tmp_path / "bundle"}),
        facts_section("Machine", {"cores": 2}),
        practice_section(PracticeCard()),
        None,
    ]
    path = write_report(tmp_path / "report.html", "A & B", sections, subtitle="four cases")
    page = path.read_text(encoding="utf-8")
    found = _Addresses(page)
    assert all(address.startswith(("data:image/png;base64,", "#")) for address in found.addresses)
    assert not {"iframe", "link", "object"} & set(found.tags)
    assert "@import" not in page
    assert page.count("<svg") == 3 + 2  # dice, hd95, nsd; loss and Dice curves
    for words in ("A &amp; B", "left &lt;ventricle&gt;", "14.0 s", "case_9", "no voxels", "95th percentile"):
        assert words in page, words


def test_means_of_the_table_are_those_of_the_evaluation() -> None:
    evaluation = _evaluation()
    text = "".join(scores_section(evaluation).parts)
    row = evaluation.summary()["left <ventricle>"]["dice"]
    assert f">{row.mean:.2f} ({row.low:.2f} to {row.high:.2f})<" in text
    assert not re.search(r"\d\.\d{3}", re.sub(r"<svg.*?</svg>", "", text, flags=re.DOTALL))
    screen = evaluation.table()
    for cell in re.findall(r">(\d\.\d\d \(.*?\))<", text):
        assert cell in screen
    assert "not defined" in text  # the tumour that no case has


def test_every_case_stands_in_the_table_the_worst_first() -> None:
    evaluation = _evaluation()
    (table,) = cases_section(evaluation).parts
    assert table.startswith("<details>")
    assert re.findall(r"case_\d", table) == ["case_3", "case_2", "case_1", "case_0"]
    assert f"{evaluation.cases[3].labels['left <ventricle>'].values['dice']:.2f}" in table
    regions: dict[str, tuple[int, ...]] = {f"l{value}": (value,) for value in range(1, 12)}
    scores = score_case(np.full((4, 4, 4), 1), np.full((4, 4, 4), 2), spacing=(1, 1, 1), regions=regions)
    absent = score_case(np.zeros((4, 4, 4), int), np.zeros((4, 4, 4), int), spacing=(1, 1, 1), regions=regions)
    wide = cases_section(Evaluation([CaseScores("many", scores), CaseScores("none", absent)], regions)).parts
    assert "l1: 0.00" in wide[0]
    assert "defined for no label of: none" in wide[1]


def test_intervals_stay_within_what_a_metric_can_be() -> None:
    reference = np.zeros((12, 12, 8), dtype=np.uint8)
    reference[2:8, 2:8, 2:6] = 1
    scores = [
        score_case(reference, np.roll(reference, i, 0), spacing=(1, 1, 2), regions={"a": (1,)}) for i in (0, 0, 2)
    ]
    row = Evaluation([CaseScores(str(i), s) for i, s in enumerate(scores)], {"a": (1,)}).summary()["a"]
    assert row["dice"].high == row["nsd"].high == 1.0
    assert row["hd95_mm"].low == 0.0
    assert row["volume_error_ml"].mean == 0.0


def test_a_path_is_no_picture() -> None:
    with pytest.raises(ValueError, match="SVG text or a data: address"):
        Section("x").figure("overlay.png")


def test_empty_plots_are_left_out() -> None:
    assert curves_section({"loss": {"train": ([], [])}}).parts == []
    assert training_section([]).parts == []


def _pixels(picture: str) -> np.ndarray:
    return np.asarray(imread(io.BytesIO(base64.b64decode(picture.split(",")[1]))))[..., :3]


@pytest.mark.parametrize("flips", [(1, 1, 1), (-1, 1, 1), (1, -1, -1)], ids=str)
def test_the_same_patient_looks_the_same_however_its_axes_run(flips: tuple[int, ...]) -> None:
    scene = _scene()
    expected = _pixels(overlay(scene.image, scene.prediction, scene.reference, AFFINE))
    turned = [
        np.asarray(a)[tuple(slice(None, None, f) for f in flips)]
        for a in (scene.image, scene.prediction, scene.reference)
    ]
    affine = AFFINE @ np.diag([*flips, 1.0])
    ends = [n - 1 if flip < 0 else 0 for n, flip in zip(scene.image.shape, flips, strict=True)]
    affine[:3, 3] = AFFINE[:3, :3] @ ends
    image, prediction, reference = (np.transpose(a, (2, 0, 1)) for a in turned)
    affine = affine[:, [2, 0, 1, 3]]
    np.testing.assert_allclose(_pixels(overlay(image, prediction, reference, affine)), expected, atol=0.02)


def test_overlay_without_labels_and_with_nan() -> None:
    image = np.full((6, 5, 4), np.nan, dtype=np.float32)
    assert overlay(image, None, None, AFFINE).startswith("data:image/png")
    empty = np.zeros((6, 5, 4), dtype=np.uint8)
    assert overlay(np.zeros((6, 5, 4)), empty, empty, AFFINE).startswith("data:image/png")


def test_boxes_count_what_is_undefined() -> None:
    text = charts.boxes({"organ": [0.5, math.nan, 0.75], "absent": [math.nan]}, y_label="dice")
    assert "n=2 (1 undefined)" in text
    assert "n=0 (1 undefined)" in text
    assert not re.search(r'(href|src)="(?!#)', text)


def test_practice_card_says_what_was_not_done() -> None:
    nothing = {name: (done, text) for name, done, text in PracticeCard().rows()}
    assert all(done is None for done, _ in nothing.values())
    card = PracticeCard(
        cases=208,
        folds_planned=5,
        folds_trained=1,
        ensemble="",
        postprocessing={"anterior": []},
        mirroring=(),
        leakage_checks=("subject ids between folds",),
        seeds=(0,),
        checkpoint="last",
        test_set="",
    )
    rows = {name: (done, text) for name, done, text in card.rows()}
    assert rows["Cross-validation"] == (False, "1 of 5 folds trained over 208 cases")
    assert rows["Ensembling"] == (False, "a single network")
    assert rows["Post-processing"] == (False, "none improved the result")
    assert rows["Mirroring at prediction"] == (False, "none")
    assert rows["Leakage checks"] == (True, "subject ids between folds")
    assert rows["Seeds"] == (True, "0")
    assert rows["Test set"][0] is False


@pytest.mark.parametrize("name", ["$\\frac{$", "x$^{$", "$x$", "_hidden", "a\x1b[2J\u202eb", "line\nbreak", "\\$"])
def test_any_label_name_is_drawn_as_text(name: str) -> None:
    import warnings

    label = np.zeros((8, 8, 8), np.uint8)
    label[2:5, 2:5, 2:5] = 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        drawn = charts.boxes({name: [0.1, 0.2]}, y_label=name)
        lines = charts.curves({name: ([0, 1], [0.1, 0.2])}, x_label=name, y_label=name)
        overlay(np.zeros((8, 8, 8), np.float32), label, label, np.eye(4), labels={0: "b", 1: name})
    shown = html.escape(charts.as_text(name).replace("\\$", "$").strip(), quote=False)
    assert shown in lines
    assert shown in drawn
    assert "\x1b" not in drawn + lines


HOSTILE = "<script>alert(1)</script>\"' onerror=x {{ 7*7 }} &lt; \x1b[2J\u202e"


class _Skeleton(HTMLParser):
    """Tags with their attributes, without the text between them."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, tuple[str, ...]]] = []
        self.words: list[str] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, tuple(name for name, _ in attributes)))

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def _page(path: Path, name: str) -> tuple[_Skeleton, str]:
    """A page with a name in every place that takes one, but the drawings."""
    card = PracticeCard(
        cases=1, folds_planned=1, folds_trained=1, ensemble=name, postprocessing={name: [name]}, notes=(name,)
    )
    section = Section(name).text(name).table([name], [[name], [1.0]]).folded(name, [name], [[name]])
    section.figure("data:image/png;base64,AA==", name)
    others = [practice_section(card), facts_section(name, {name: name}), paths_section({name: Path(name)}), None]
    write_report(path, name, [section, *others], subtitle=name)
    text = path.read_text(encoding="utf-8")
    skeleton = _Skeleton()
    skeleton.feed(text)
    return skeleton, text


def test_hostile_names_stay_text(tmp_path: Path) -> None:
    calm, _ = _page(tmp_path / "a.html", "liver")
    hostile, text = _page(tmp_path / "b.html", HOSTILE)
    assert hostile.tags == calm.tags
    assert "\x1b" not in text
    assert "\u202e" not in text
    assert (
        sum(
            "<script>alert(1)</script>\"' onerror=x {{ 7*7 }} &lt; \\u001b[2J\\u202e" in words
            for words in hostile.words
        )
        > 10
    )


def test_what_no_template_made_is_escaped_in_a_section_too(tmp_path: Path) -> None:
    write_report(tmp_path / "a.html", "x", [Section("x", ["<b>1</b>"])])
    assert "&lt;b&gt;1&lt;/b&gt;" in (tmp_path / "a.html").read_text()


def test_a_page_without_volumes_holds_no_script(tmp_path: Path) -> None:
    page = write_report(tmp_path / "report.html", "A", [scores_section(_evaluation())]).read_text(encoding="utf-8")
    assert "script" not in _Addresses(page).tags
    assert "script-src" not in page


def test_the_worst_the_median_and_the_best_case_come_first() -> None:
    shown = [(role, case.name) for role, case in showcase(_evaluation(), 4)]
    assert shown == [("worst case", "case_3"), ("median case", "case_1"), ("best case", "case_0"), ("", "case_2")]
    assert [role for role, _ in showcase(_evaluation(), 2)] == ["worst case", "median case"]
    assert showcase(Evaluation([], {"a": (1,)}, ScoreSettings()), 3) == []


def test_a_case_of_the_table_leads_to_its_picture_and_every_text_can_be_read_in_both_themes(tmp_path: Path) -> None:
    sections = [overlays_section([_scene()], {1: "a"}), cases_section(_evaluation(), pictured={"case_0"})]
    page = write_report(tmp_path / "report.html", "A", sections).read_text(encoding="utf-8")
    (anchor,) = re.findall(r'<figure id="(case-[0-9a-f]+)"', page)
    assert f'<a href="#{anchor}">case_0</a>' in page
    assert page.count("<a ") == 1
    assert "default-src 'none'" in html.unescape(page)
    for theme in re.findall(r":root \{[^}]*--page[^}]*\}", page):
        color = dict(re.findall(r"--(\w+): (#\w{6})", theme))
        for name in ("ink", "quiet", "link", "yes", "no"):
            assert _contrast(color[name], color["page"]) >= 4.5, (name, theme)


def _light(color: str) -> np.ndarray:
    """Linear light of #RRGGBB."""
    value = np.array([int(color[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    return np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)


def _contrast(first: str, second: str) -> float:
    """WCAG 2: of two colours."""
    dark, bright = sorted(float(_light(color) @ [0.2126, 0.7152, 0.0722]) for color in (first, second))
    return (bright + 0.05) / (dark + 0.05)


def test_charts_take_the_colour_of_the_page_and_say_where_their_axis_begins() -> None:
    chart = charts.boxes({"a": [0.8, 0.9, 0.85], "b": [0.7]}, y_label="dice", lowest=0.0)
    assert "currentColor" in chart
    assert charts.INK not in chart
    assert "axis does not begin at 0" in chart
    assert "axis does not begin" not in charts.boxes({"a": [0.0, 0.9]}, y_label="dice", lowest=0.0)
    assert charts.boxes({"b": [0.7]}, y_label="dice").count('id="line2d_') < chart.count(
        'id="line2d_'
    )  # no box around one case


def test_volumes_agree_around_their_mean_difference() -> None:
    section = agreement_section(_evaluation())
    assert section is not None
    assert "Bland and Altman" in section.parts[0]
    assert agreement_section(Evaluation([], {"a": (1,)}, ScoreSettings(groups=("overlap",)))) is None
