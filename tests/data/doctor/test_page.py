"""The page: well-formed, alone, bounded, readable by everyone, and rendered by a real browser."""

from __future__ import annotations

import html.parser
import io
import itertools
import re
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.data import doctor
from pipeline.data.doctor import gather, page
from pipeline.data.doctor.findings import Audit, Finding
from pipeline.data.scenes.synthetic import make_world
from tests.data.doctor import browser
from tests.data.doctor.worlds import audit, label, recipe, rewrite, scene

VOID = {"meta", "link", "br", "img", "hr", "input"}


class Strict(html.parser.HTMLParser):
    """Refuses what browsers would guess about: tags that do not match, ids that are there twice."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(source)
        self.close()
        assert self.open == [], f"never closed: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len(dict(attrs)) == len(attrs), f"<{tag}> has an attribute twice"
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open[-1] == tag, f"</{tag}> closes {self.open[-3:]}"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        self.words.append(data.strip())

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]

    @property
    def text(self) -> str:
        return " ".join(word for word in self.words if word)


@pytest.fixture(scope="module")
def spoilt(clean: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A world with many findings; its report is in report/."""
    folder = tmp_path_factory.mktemp("spoilt") / "world"
    shutil.copytree(clean, folder)
    rewrite(label(folder, scene(folder, 3)), lambda m: np.roll(m, 6, 1), names=("label",))
    rewrite(label(folder, scene(folder, 1)), lambda m: np.where(m == 2, 9, m), names=("label",))
    table = (folder / "splits.csv").read_text()
    (folder / "splits.csv").write_text(table.replace("north_autumn,train", "north_autumn,test"))
    (folder / "images" / "valley_spring.tif").write_bytes(b"")
    audit(folder)
    return folder / "report" / "report.html"


def test_the_page_is_well_formed(spoilt: Path) -> None:
    found = Strict(spoilt.read_text())
    ids = Counter(a["id"] for _, a in found.tags if "id" in a)
    assert ids and set(ids.values()) == {1}
    links = [a["href"] for a in found.all("a")]
    assert links and all(href and href[1:] in ids for href in links), "links lead to findings on the page"


def test_the_page_stands_alone(spoilt: Path) -> None:
    source = spoilt.read_text()
    for tag, attributes in Strict(source).tags:
        assert tag not in ("script", "iframe", "object", "embed", "form"), tag
        assert not [name for name in attributes if name.startswith("on")]
        for name in ("src", "href", "xlink:href", "action", "srcset"):
            value = attributes.get(name) or "#"
            assert value.startswith(("data:", "#")), f"<{tag} {name}={value}> is fetched from elsewhere"
    assert not re.search(r"@import|url\((?!#)|https?://", source)


def test_everyone_can_read_it(spoilt: Path) -> None:
    found = Strict(spoilt.read_text())
    assert found.all("html")[0]["lang"] == "en" and any(a.get("name") == "viewport" for a in found.all("meta"))
    assert found.all("img") and all(a.get("alt") for a in found.all("img"))
    assert found.all("svg") and all(a.get("role") == "img" and a.get("aria-label") for a in found.all("svg"))
    assert len(found.all("caption")) == len(found.all("table")) >= 3
    assert all(a.get("scope") in ("col", "row") for a in found.all("th"))
    levels = [int(tag[1]) for tag, _ in found.tags if re.fullmatch(r"h[1-6]", tag)]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(after - before <= 1 for before, after in itertools.pairwise(levels)), "no level is skipped"


def test_the_page_says_what_is_wrong_and_what_to_do_first(spoilt: Path) -> None:
    text = Strict(spoilt.read_text()).text
    for said in ("Do not train yet:", "What to change first", "Findings", "why it matters", "what to do", "Classes"):
        assert said in text, said
    assert "the file is empty" in text and "north" in text and "9 (" in text


def test_names_are_shown_and_never_run(tmp_path: Path) -> None:
    name = "<script>alert(1)<>&\"'"
    make_world(tmp_path, num_scenes=2, size=128)
    classes = [{"name": name}, {"name": "forest"}, {"name": "field"}, {"name": "built"}]
    doctor.examine(recipe(tmp_path, **{"data.classes": classes}), str(tmp_path / "report"))
    found = Strict((tmp_path / "report" / "report.html").read_text())
    assert name in found.text and not found.all("script")


def many(seen: Audit, count: int) -> Audit:
    """The audit of a set that is much larger."""
    rows = tuple(replace(seen.scenes[k % len(seen.scenes)], id=f"scene-{k:06}") for k in range(count))
    names = tuple(row.id for row in rows)
    findings = tuple(Finding(f"kind_{k}", "warning", "what " * 30, "why", "do", "command", names) for k in range(300))
    bands = tuple(replace(seen.bands[0], name=f"band {k}") for k in range(200))
    classes = tuple(replace(seen.classes[0], name=f"class {k}") for k in range(250))
    return replace(seen, scenes=rows, findings=findings, bands=bands, classes=classes, first=("kind_0", "kind_1"))


def test_the_page_of_a_huge_set_stays_small(clean: Path) -> None:
    given = recipe(clean)
    source = page.html(many(audit(clean), 20_000), gather.gather(given, None))
    assert len(source) < 2_000_000
    text = Strict(source).text
    assert "200 of 20,000 scenes" in text and "220 more are in report.json" in text and "more bands" in text


WIDTHS = """
(() => {
  const wide = [...document.querySelectorAll('body *')].filter(e => {
    if (e.closest('.box') || e.closest('svg') || e.closest('pre')) return false;
    const r = e.getBoundingClientRect();
    return r.width > 0 && (r.right > innerWidth + 1 || r.left < -1);
  }).map(e => e.tagName + '.' + e.className);
  const broken = [...document.images].filter(i => !i.complete || i.naturalWidth === 0).length;
  const style = getComputedStyle(document.body);
  return {page: document.documentElement.scrollWidth, window: innerWidth, wide, broken,
          colors: [style.color, style.backgroundColor], title: document.title,
          small: [...document.querySelectorAll('p, dd, dt, td, th, li, figcaption')]
                 .filter(e => parseFloat(getComputedStyle(e).fontSize) < 12).length};
})()
"""


def luminance(color: str) -> float:
    """Relative luminance of rgb(r, g, b), by WCAG 2."""
    parts = [int(v) / 255 for v in re.findall(r"\d+", color)[:3]]
    linear = [v / 12.92 if v <= 0.03928 else ((v + 0.055) / 1.055) ** 2.4 for v in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.slow
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_a_browser_shows_it_without_network_on_a_desk_and_on_a_phone(
    spoilt: Path, tmp_path: Path, width: int, dark: bool
) -> None:
    seen = browser.visit(spoilt, tmp_path / "profile", width, WIDTHS, dark=dark)
    assert seen.requests == (), "everything is in the file"
    value = seen.value
    assert value["window"] == width and value["page"] <= width, f"it must be scrolled sideways: {value['wide']}"
    assert value["wide"] == [] and value["broken"] == 0 and value["small"] == 0
    ink, paper = (luminance(c) for c in value["colors"])
    assert (max(ink, paper) + 0.05) / (min(ink, paper) + 0.05) > 7 and (paper < ink) == dark
    picture = np.asarray(Image.open(io.BytesIO(seen.png)).convert("RGB"))
    assert picture.shape[1] >= width - 20 and picture.shape[0] > 1500
    assert len(np.unique(picture.reshape(-1, 3), axis=0)) > 500, "maps, histograms and thumbnails are drawn"
