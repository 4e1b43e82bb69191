"""The report: what is written is what is read, and the page stands alone."""

from __future__ import annotations

import base64
import html.parser
import io
import json
import math
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pipeline import metrics
from pipeline.data.labels.classes import IGNORE, Classes
from pipeline.data.rasters.windows import Window
from pipeline.errors import DataError
from pipeline.evaluation import figures, report
from pipeline.evaluation.report import Example, Report, SceneResult

NAMES = ("water", 'fields & "woods" <b>', "never seen")
CLASSES = Classes(NAMES, ((0, 0, 0), (230, 159, 0), (86, 180, 233)), ((0,), (1,), (2,)), (9,))
CURVES = tuple({"step": s, "loss": 1 / (1 + s), "lr": 0.1, "val.miou": s / 100} for s in range(0, 100, 10))


def scored(*rows: tuple[int, ...]) -> tuple[tuple[tuple[int, ...], ...], dict[str, float]]:
    return rows, metrics.scores(torch.tensor(rows), NAMES)


def pixels_of(uri: str) -> Image.Image:
    head, _, body = uri.partition(",")
    assert head == "data:image/png;base64"
    return Image.open(io.BytesIO(base64.b64decode(body)))


def shown(seed: int = 0) -> dict[str, str]:
    rng = np.random.default_rng(seed)
    ids = rng.integers(0, 3, (32, 32)).astype(np.uint8)
    image = rng.integers(0, 9000, (4, 32, 32)).astype(np.uint16)
    return figures.window_pictures(image, np.ones((32, 32), bool), ("b", "g", "r", "nir"), ids, ids, CLASSES)


@pytest.fixture
def made(tmp_path: Path) -> Report:
    first, second = scored((900, 100, 0), (50, 450, 0), (0, 0, 0)), scored((10, 0, 0), (7, 3, 0), (0, 0, 0))
    total, scores = scored((910, 100, 0), (57, 453, 0), (0, 0, 0))
    scenes = (
        SceneResult("good", "north", *first),
        SceneResult("poor", "south", *second),
        SceneResult("bare", "south", *scored((0, 0, 0), (0, 0, 0), (0, 0, 0))),
    )
    return Report(
        uri=str(tmp_path / "report"),
        name="tiny",
        split="test",
        created="2030-01-02T03:04:05+00:00",
        seconds=1.5,
        bundle_uri="runs/tiny/bundle",
        bundle_digest="0123456789ab",
        manifest_digest="a" * 64,
        split_digest="b" * 64,
        fingerprint="cdefcdefcdef",
        step=100,
        run_id=None,
        classes=CLASSES,
        confusion=total,
        scores=scores,
        groups={"north": first[1], "south": second[1]},
        scenes=scenes,
        examples=(Example("worst", "poor", Window(0, 32, 32, 32), 0.4, 0.35),),
        curves=CURVES,
        predict={"window": 64, "overlap": 0.25, "blend": "gaussian", "batch": 4},
        recipe={"name": "tiny", "data": {"root": "<script>alert(1)</script>"}},
    )


class Page(html.parser.HTMLParser):
    """Collects tags, their attributes, and the text."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.words.append(data.strip())

    @property
    def text(self) -> str:
        return " ".join(word for word in self.words if word)


def page(made: Report) -> Page:
    return Page((Path(made.uri) / "report.html").read_text())


def test_what_is_written_is_what_is_read(made):
    report.write(made, [shown()])
    found = report.read(made.uri)
    assert found.to_json() == made.to_json()
    assert found.examples == made.examples and found.classes == made.classes and found.confusion == made.confusion
    assert math.isnan(found.scores["iou.never seen"]) and math.isnan(found.scenes[2].scores["miou"])
    tree = json.loads((Path(made.uri) / "report.json").read_text())
    assert tree["scores"]["iou.never seen"] is None
    assert "data:image" not in json.dumps(tree), "pictures belong into the page"


def test_a_report_that_is_not_there_or_damaged_or_newer_says_so(made, tmp_path):
    with pytest.raises(DataError, match=r"no report here\n  -> write one with `segpipe evaluate`"):
        report.read(str(tmp_path / "nowhere"))
    report.write(made, [shown()])
    path = Path(made.uri) / "report.json"
    tree = json.loads(path.read_text())
    path.write_text(json.dumps(tree | {"report_version": 99}))
    with pytest.raises(DataError, match="report version 99, this program knows 1"):
        report.read(made.uri)
    path.write_text(json.dumps({k: v for k, v in tree.items() if k != "confusion"}))
    with pytest.raises(DataError, match=r"report.json is damaged .*confusion"):
        report.read(made.uri)


def test_the_page_stands_alone(made):
    report.write(made, [shown()])
    for tag, attributes in page(made).tags:
        assert tag not in ("script", "iframe", "object", "embed"), tag
        for name in ("src", "href", "xlink:href", "action"):
            value = attributes.get(name) or ""
            assert value == "" or value.startswith(("data:", "#")), f"<{tag} {name}={value}> is fetched from elsewhere"
    source = (Path(made.uri) / "report.html").read_text()
    assert not re.search(r"@import|url\((?!#)", source)


def test_the_page_says_what_was_judged_and_how_well(made):
    report.write(made, [shown()])
    text = page(made).text
    for said in ("tiny", "0123456789ab", "cdefcdefcdef", "aaaaaaaaaaaa", "bbbbbbbbbbbb", "2030-01-02 03:04 UTC"):
        assert said in text, said
    assert "3 scenes" in text and "1,520 labelled pixels" in text and "100 steps" in text
    assert f"{made.scores['miou']:.3f}" in text and f"{made.scores['iou.water']:.3f}" in text
    # Always water: IoU of water 1010 / 1520, of the other class 0.
    assert f"{1010 / 1520 / 2:.3f}" in text


def test_names_and_values_are_shown_and_never_run(made):
    report.write(made, [shown()])
    found = page(made)
    assert NAMES[1] in found.text and "<script>alert(1)</script>" in found.text
    assert "b" not in [tag for tag, attributes in found.tags if attributes], "a class name became markup"


def test_the_matrix_has_shares_in_its_cells_and_counts_under_the_pointer(made):
    report.write(made, [shown()])
    cells = {a["title"]: a for tag, a in page(made).tags if tag == "td" and "title" in a}
    assert f"water predicted as {NAMES[1]}: 100 pixels" in cells
    assert "--v: 0.901" in cells["water predicted as water: 910 pixels"]["style"]
    assert cells["water predicted as water: 910 pixels"]["class"] == "hit"
    assert "--v: 0" in cells["never seen predicted as water: 0 pixels"]["style"]


def test_scenes_are_listed_worst_first_and_unjudged_ones_last(made):
    report.write(made, [shown()])
    titles = [a.get("title") for tag, a in page(made).tags if tag == "th"]
    assert [t for t in titles if t in ("good", "poor", "bare")] == ["poor", "good", "bare"]
    assert [t for t in titles if t in ("north", "south")] == ["south", "north"]


def test_groups_that_are_the_scenes_are_not_listed_twice(made):
    report.write(replace(made, groups={s.id: s.scores for s in made.scenes}), [shown()])
    assert "Groups" not in page(made).words


def test_curves_are_drawn_where_there_are_any(made):
    report.write(made, [shown()])
    source = (Path(made.uri) / "report.html").read_text()
    assert source.count("<svg") == 3 and "Scores on the val split" in source
    ids = re.findall(r'\sid="([^"]+)"', source)
    for used in set(re.findall(r'url\(#([^)]+)\)|xlink:href="#([^"]+)"', source)):
        assert ids.count("".join(used)) == 1, "two figures of the page would draw with each other's parts"
    report.write(replace(made, curves=()), [shown()])
    assert "<svg" not in (Path(made.uri) / "report.html").read_text()


def test_how_mixed_the_chips_came_is_said(made):
    report.write(made, [shown()])
    assert "How mixed" not in page(made).text
    mixed = replace(made, mixing={"scenes_per_batch": 4.25, "blocks_per_batch": 7.8, "chi_square_of_batches": 0.97})
    report.write(mixed, [shown()])
    assert "4.2 scenes, 7.8 blocks in a batch, χ² of class shares 0.97 between batches" in page(made).text
    assert report.read(made.uri).mixing == mixed.mixing


def test_a_decision_replaces_the_one_before(made):
    report.write(made, [shown()])
    report.add_decision(made.uri, "version 1: refused", False, ["IoU of <i>water</i> fell"])
    assert "IoU of <i>water</i> fell" in page(made).text
    report.add_decision(made.uri, "version 1: promoted", True, ["gain +0.1"])
    text = page(made).text
    assert "version 1: promoted" in text and "gain +0.1" in text and "refused" not in text
    assert f"{made.scores['miou']:.3f}" in text, "the rest of the page is still there"


def test_labels_have_the_colours_of_the_classes_and_ignore_is_see_through():
    truth = np.array([[0, 1], [2, IGNORE]], np.uint8)
    prediction = np.array([[0, 2], [2, 1]], np.uint8)
    image = np.full((3, 2, 2), 7, np.uint8)
    valid = np.ones((2, 2), bool)
    out = figures.window_pictures(image, valid, ("r", "g", "b"), truth, prediction, CLASSES)
    label = np.array(pixels_of(out["label"]).convert("RGBA"))
    assert [tuple(c) for c in label[:, :, :3].reshape(-1, 3)[:3]] == list(CLASSES.colors)
    assert label[..., 3].tolist() == [[255, 255], [255, 0]]
    errors = np.array(pixels_of(out["errors"]))
    assert (errors[..., :3] == figures.WRONG).all(-1).tolist() == [[False, True], [False, False]]
    assert errors[1, 1, 3] == 0, "a pixel without a label is neither right nor wrong"


def test_large_windows_are_scaled_down_without_new_colours():
    ids = np.random.default_rng(0).integers(0, 3, (1000, 500)).astype(np.uint8)
    image, valid = np.zeros((1, 1000, 500), np.float32), np.ones((1000, 500), bool)
    out = figures.window_pictures(image, valid, ("gray",), ids, ids, CLASSES)
    label = pixels_of(out["label"])
    assert label.size == (192, 384)
    assert {tuple(c) for c in np.array(label.convert("RGB")).reshape(-1, 3)} == set(CLASSES.colors)


def test_multilabel_counts_are_shown_class_by_class(made):
    tables = (((80, 5), (5, 10)), ((50, 0), (0, 50)), ((100, 0), (0, 0)))
    scores = metrics.scores(torch.tensor(tables), NAMES)
    assert scores["iou.water"] == pytest.approx(0.5) and math.isnan(scores["iou.never seen"])
    assert scores["accuracy"] == pytest.approx(290 / 300)
    several = replace(made, confusion=tables, scores=scores, task="multilabel", scenes=made.scenes[:1])
    report.write(several, [{}] * len(made.examples))
    assert report.read(several.uri).to_json() == several.to_json()
    assert report.read(several.uri).confusion == tables
    text = Page(Path(several.uri, "report.html").read_text()).text
    assert "rightly not there" in text and "Confusion" not in text
    assert report.majority_miou(tables, "multilabel") == pytest.approx((0.15 + 0.5) / 2)


def test_planes_are_pictured_as_the_last_class_that_is_there():
    truth = np.zeros((3, 4, 4), np.uint8)
    truth[0, :2], truth[2, :, :2] = 1, 1
    truth[:, 3] = IGNORE
    prediction = truth.copy()
    prediction[1, 0, 3] = 1
    image = np.full((3, 4, 4), 9, np.uint8)
    panels = figures.window_pictures(image, np.ones((4, 4), bool), "rgb", truth, prediction, CLASSES)
    label = np.array(pixels_of(panels["label"]))
    assert label.tolist() == [[2, 2, 0, 0], [2, 2, 0, 0], [2, 2, 254, 254], [255] * 4]
    errors = np.array(pixels_of(panels["errors"]).convert("RGBA"))
    assert (errors[..., :3] == figures.WRONG).all(-1).nonzero() == (0, 3)
    assert (errors[3, :, 3] == 0).all() and (errors[:3, :, 3] == 255).all()
