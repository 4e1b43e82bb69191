"""Folders and names as people have them: what can be used is used, the rest is named."""

from __future__ import annotations

import logging
import os
import shutil
import unicodedata
from pathlib import Path

import pytest

from pipeline.data.rasters import raster_io
from pipeline.data.scenes.index import index
from pipeline.errors import DataError, ManifestError, SceneError
from pipeline.prediction.predict import predict
from tests.factory import make_pixels, make_scene, recipe_for, write_raster
from tests.model import small

CLUTTER = (
    "s0.tif.aux.xml",
    "s1.tfw",
    "s2.jgw",
    "Thumbs.db",
    "notes.txt",
    "README",
    "desktop.ini",
    ".DS_Store",
    "._s0.tif",
)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return small.save(tmp_path_factory.mktemp("bundle") / "bundle", num_bands=3, dtype="uint8")


def images(folder: Path, *names: str) -> Path:
    for name in names:
        write_raster(folder / name, make_pixels(3, 40, 40, "uint8"))
    return folder


def names(written: list[str]) -> list[str]:
    return [Path(path).stem for path in written]


def test_what_lies_beside_images_is_passed_over_and_said(tmp_path, bundle, caplog):
    folder = images(tmp_path / "images", "s0.tif", "s1.tif")
    for name in CLUTTER:
        (folder / name).write_text("x")
    with caplog.at_level(logging.WARNING):
        assert names(predict(bundle, f"{folder}/*", str(tmp_path / "out"))) == ["s0", "s1"]
    assert "7 files are no images and are passed over: README" in caplog.text
    for number in range(2):
        write_raster(tmp_path / "masks" / f"s{number}.tif", make_pixels(1, 40, 40, "uint8") % 2)
    assert [s.id for s in index(recipe_for(tmp_path)).scenes] == ["s0", "s1"]


@pytest.mark.parametrize("name", ["README", "notes.txt", "s1.tfw"])
def test_a_file_that_is_asked_for_by_its_name_is_an_image_or_an_error(tmp_path, bundle, name):
    folder = images(tmp_path, "s0.tif")
    (folder / name).write_text("x")
    with pytest.raises(SceneError, match=name):
        predict(bundle, str(folder / name), str(tmp_path / "out"))


def test_a_page_that_was_saved_as_an_image_is_an_error(tmp_path, bundle):
    folder = images(tmp_path / "images", "s0.tif")
    (folder / "s1.tif").write_text("<html>not found</html>")
    with pytest.raises(SceneError, match=r"s1\.tif: cannot be read"):
        predict(bundle, f"{folder}/*", str(tmp_path / "out"))


@pytest.mark.parametrize("folder", ["scan[1]", "a*b", "what?", "x [2] y", "ünï", "50%"])
def test_folders_are_called_as_they_are(tmp_path, bundle, folder):
    images(tmp_path / folder, "s0.tif", "s1.tif")
    assert names(predict(bundle, f"{tmp_path / folder}/*.tif", str(tmp_path / "out"))) == ["s0", "s1"]
    (written,) = predict(bundle, str(tmp_path / folder / "s0.tif"), str(tmp_path / "one"))
    assert Path(written).is_file()


def test_a_link_to_nothing_is_named(tmp_path, bundle, caplog):
    for number in range(2):
        make_scene(tmp_path, f"s{number}", height=40, width=40)
    (tmp_path / "images" / "gone.tif").symlink_to("nowhere.tif")
    with caplog.at_level(logging.WARNING):
        assert [s.id for s in index(recipe_for(tmp_path)).scenes] == ["s0", "s1"]
    assert "1 file points to content that is not there" in caplog.text and "gone.tif -> nowhere.tif" in caplog.text
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        predict(bundle, f"{tmp_path}/images/*", str(tmp_path / "out"))
    assert "gone.tif -> nowhere.tif" in caplog.text
    with pytest.raises(SceneError, match=r"gone\.tif"):
        predict(bundle, f"{tmp_path}/images/gone.tif", str(tmp_path / "out2"))


def test_both_forms_of_a_letter_are_shown(tmp_path, bundle):
    composed, apart = (unicodedata.normalize(form, "é") for form in ("NFC", "NFD"))
    images(tmp_path, f"{apart}.tif")
    with pytest.raises(SceneError, match="no image matches") as caught:
        predict(bundle, str(tmp_path / f"{composed}.tif"), str(tmp_path / "out"))
    assert repr(str(tmp_path / f"{apart}.tif")) in caught.value.hint
    make_scene(tmp_path / "set", composed)
    shutil.move(tmp_path / "set" / "masks" / f"{composed}.png", tmp_path / "set" / "masks" / f"{apart}.png")
    with pytest.raises(ManifestError, match=f"there is '{apart}.png', whose letters are written in another form"):
        index(recipe_for(tmp_path / "set", **{"data.labels": "masks/{id}.png"}))


@pytest.mark.parametrize("name", [b"a\nb.tif", b"a\rb.tif", b"a\xff\xfe.tif"])
def test_names_that_no_table_can_hold_are_refused(tmp_path, bundle, name):
    folder = images(tmp_path, "s0.tif")
    os.rename(os.fsencode(folder / "s0.tif"), os.path.join(os.fsencode(folder), name))  # noqa: PTH104, PTH118 - bytes
    with pytest.raises(ManifestError, match="line ends or not in UTF-8"):
        predict(bundle, f"{folder}/*", str(tmp_path / "out"))
    with pytest.raises(ManifestError, match="line ends or not in UTF-8"):
        index(recipe_for(folder, **{"data.images": "*"}))


@pytest.mark.parametrize("part", ["images/a.tif", "masks/a.png"])
def test_a_pipe_is_no_raster_and_nobody_waits_for_it(tmp_path, part):
    make_scene(tmp_path, "a")
    make_scene(tmp_path, "b")
    (tmp_path / part).unlink()
    os.mkfifo(tmp_path / part)
    uri = str(tmp_path / part)
    with pytest.raises(SceneError, match="a pipe, socket or device, not a regular file"):
        raster_io.describe(uri)
    with pytest.raises(DataError, match="a pipe, socket or device, not a regular file"):
        predict("unused", uri, str(tmp_path / "out"))
    rows = [f"{i},images/{i}.tif,masks/{i}.png" for i in ("a", "b")]
    (tmp_path / "list.csv").write_text("\n".join(["id,image,label", *rows]))
    with pytest.raises(DataError, match="a pipe, socket or device, not a regular file"):
        index(recipe_for(tmp_path, **{"data.images": None, "data.scenes": "list.csv", "data.labels": None}))


@pytest.mark.parametrize("name", ["x" * 300 + ".tif", "a\0b.tif"])
def test_names_that_cannot_be_are_an_error_of_the_data(tmp_path, name):
    with pytest.raises(DataError):
        raster_io.describe(str(tmp_path / name))
    loop = tmp_path / "loop.tif"
    loop.symlink_to(loop)
    with pytest.raises(DataError):
        raster_io.describe(str(loop))
