import logging
import shutil

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.data.scenes import pairing
from pipeline.data.scenes.discovery import find
from pipeline.data.scenes.scene import SceneFiles
from pipeline.errors import ManifestError
from tests.factory import make_scene, recipe_for


def section(folder, images="images/*", labels="masks/{id}.*"):
    return recipe_for(folder, **{"data.images": images, "data.labels": labels}).data


def touch(folder, *names):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def test_folder_pairs(tmp_path):
    touch(tmp_path, "images/b.tif", "images/a.tif", "masks/a.tif", "masks/b.tif")
    root = str(tmp_path)
    assert find(section(tmp_path, "images/*.tif", "masks/{id}.tif")) == [
        SceneFiles("a", f"{root}/images/a.tif", f"{root}/masks/a.tif"),
        SceneFiles("b", f"{root}/images/b.tif", f"{root}/masks/b.tif"),
    ]


def test_suffix_pairs_do_not_take_masks_for_images(tmp_path):
    for name in ("000", "001"):
        make_scene(tmp_path, name, layout="suffix", ending=".png")
    found = find(section(tmp_path, "*.png", "{id}_mask.png"))
    assert [(f.id, f.label) for f in found] == [(i, f"{tmp_path}/{i}_mask.png") for i in ("000", "001")]


@pytest.mark.parametrize(
    ("images", "labels", "files"),
    [
        ("**/*.tif", "{id}.png", ["x/a.tif", "y/b.tif", "a.png", "b.png"]),
        ("images/*", "masks/{id}_*.png", ["images/a.tif", "images/ab.tif", "masks/a_1.png", "masks/ab_x.png"]),
        ("images/*", "masks/{id}*", ["images/a.jpg", "images/b.png", "masks/a.gif", "masks/b_manual.png"]),
        ("images/*", "*/{id}.png", ["images/a.tif", "images/b.tif", "m1/a.png", "m2/b.png"]),
        ("images/*", "**/{id}_m.png", ["images/a.tif", "images/b.tif", "b_m.png", "m/n/a_m.png"]),
        ("images/*", "m[12]/{id}.p?g", ["images/a.tif", "images/b.tif", "m1/a.png", "m2/b.pgg"]),
        ("*/i.png", "{id}/{id}.tif", ["x/i.png", "i/i.tif"]),
    ],
)
def test_patterns(tmp_path, images, labels, files):
    touch(tmp_path, *files)
    found = find(section(tmp_path, images, labels))
    assert len(found) == len(files) // 2
    assert all(f.label is not None and f.id in f.label for f in found)


def test_ids_are_taken_literally(tmp_path):
    names = ["a[1]", "a*", "a.b", "a+(1)", "ä b"]
    touch(tmp_path, *(f"{d}/{n}.png" for n in [*names, "a1", "axb"] for d in ("images", "masks")))
    for labels in ("masks/{id}.png", "masks/{id}.*", "mask?/{id}.png"):
        found = find(section(tmp_path, "images/*.png", labels))
        assert [(f.id, f.label) for f in found] == [(f.id, f"{tmp_path}/masks/{f.id}.png") for f in found]
        assert {f.id for f in found} >= set(names)


def test_without_labels(tmp_path):
    touch(tmp_path, "images/a.tif")
    assert find(section(tmp_path, labels=None)) == [SceneFiles("a", f"{tmp_path}/images/a.tif", None)]


def test_files_that_programs_put_beside_rasters_are_no_images(tmp_path):
    touch(tmp_path, "images/a.tif", "masks/a.tif")
    touch(tmp_path, *(f"images/a{e}" for e in (".tif.aux.xml", ".tif.ovr", ".tif.msk", ".tfw", ".txt")))
    touch(tmp_path, "images/README.md", "images/licence.pdf", "images/Thumbs.db", "images/.DS_Store")
    assert [f.id for f in find(section(tmp_path))] == ["a"]


def test_a_relative_root_gives_absolute_paths(tmp_path, monkeypatch):
    touch(tmp_path, "data/images/a.tif", "data/masks/a.tif")
    monkeypatch.chdir(tmp_path)
    recipe = recipe_for(tmp_path / "data", **{"data.root": "data"})
    assert find(recipe.data)[0].image == f"{tmp_path}/data/images/a.tif"


def test_labels_without_an_image_are_named_in_the_log(tmp_path, caplog):
    touch(tmp_path, "images/a.tif", *(f"masks/{n}.tif" for n in "abc"))
    with caplog.at_level(logging.WARNING):
        find(section(tmp_path))
    assert "2 labels belong to no image: b.tif, c.tif" in caplog.text
    touch(tmp_path, "images/d.tif")
    with pytest.raises(ManifestError, match=r"image d has no label[^!]*2 labels belong to no image: b\.tif, c\.tif"):
        find(section(tmp_path))


def test_a_glob_that_finds_nothing_says_what_is_there(tmp_path):
    touch(tmp_path, "imgs/a.tif", "masks/a.tif", "splits.csv")
    with pytest.raises(ManifestError) as caught:
        find(section(tmp_path, "images/*.tif"))
    assert caught.value.message == (
        f"data.images 'images/*.tif' finds no file in {tmp_path}; there is imgs/, masks/, splits.csv"
    )
    shutil.rmtree(tmp_path)
    with pytest.raises(ManifestError, match=rf"data\.root {tmp_path} does not exist"):
        find(section(tmp_path, "images/*.tif"))


def test_images_that_all_look_like_labels(tmp_path):
    touch(tmp_path, "a.png", "b.png")
    with pytest.raises(ManifestError, match=r"all 2 files .* are labels by '\{id\}\.png'"):
        find(section(tmp_path, "*.png", "{id}.png"))


def test_all_pairing_problems_are_said_at_once(tmp_path):
    touch(tmp_path, *(f"images/{n}.tif" for n in "abcd"), "images/a.png", "masks/a.tif", "masks/b.tif", "masks/b.png")
    with pytest.raises(ManifestError) as caught:
        find(section(tmp_path))
    lines = caught.value.message.splitlines()
    assert lines[0] == f"3 problems with the files in {tmp_path}"
    assert any("id a has several images" in line and "a.png" in line for line in lines)
    assert any("id b has several labels" in line and "b.png" in line for line in lines)
    assert "  2 of 4 images have no label 'masks/{id}.*': c, d" in lines


def test_an_image_without_label_names_the_file_that_is_missing(tmp_path):
    touch(tmp_path, "images/a.tif", "images/b.tif", "masks/a.png")
    with pytest.raises(ManifestError, match=r"image b has no label 'masks/b\.png'"):
        find(section(tmp_path, labels="masks/{id}.png"))


def test_bands_in_files_of_their_own(tmp_path):
    touch(tmp_path, *(f"{i}/{i}_{b}_10m.jp2" for i in ("T32", "T33") for b in ("B04", "B08")), "T33/T33_B02_10m.jp2")
    touch(tmp_path, "m/T32.tif", "m/T33.tif")
    patterns = {"red": "*/{id}_B04*.jp2", "nir": "{id}/{id}_B08_10m.jp2"}
    section = recipe_for(tmp_path, **{"data.images": None, "data.bands_apart": patterns, "data.labels": "m/{id}.tif"})
    found = find(section.data)
    assert [f.id for f in found] == ["T32", "T33"]
    assert found[1].image == "\n".join(f"{tmp_path}/T33/T33_{b}_10m.jp2" for b in ("B04", "B08"))
    assert found[1].files == (*found[1].image.split("\n"), f"{tmp_path}/m/T33.tif")


def test_missing_bands_are_all_named(tmp_path):
    touch(tmp_path, "a_r.tif", "b_r.tif", "b_g.tif", "c_r.tif", "c_g.tif", "c_b.tif", "m/a.tif", "m/b.tif", "m/c.tif")
    patterns = {"r": "{id}_r.tif", "g": "{id}_g.tif", "b": "{id}_b.tif"}
    section = recipe_for(tmp_path, **{"data.images": None, "data.bands_apart": patterns, "data.labels": "m/{id}.tif"})
    with pytest.raises(ManifestError) as caught:
        find(section.data)
    assert "image a has no file of band g 'a_g.tif'" in str(caught.value)
    assert "2 of 3 images have no file of band b '{id}_b.tif': a, b" in str(caught.value)


def test_one_vector_file_for_all(tmp_path):
    touch(tmp_path, "images/a.tif", "images/b.tif", "houses.geojson", "aoi/a.gpkg", "aoi/b.gpkg")
    recipe = recipe_for(
        tmp_path, **{"data.images": "images/*.tif", "data.labels": "houses.geojson", "data.aoi": "aoi/{id}.gpkg"}
    )
    found = find(recipe.data)
    assert {f.label for f in found} == {f"{tmp_path}/houses.geojson"}
    assert [f.aoi for f in found] == [f"{tmp_path}/aoi/{i}.gpkg" for i in "ab"]
    with pytest.raises(ManifestError, match=r"'no\.gpkg' finds no file; without \{id\}"):
        find(recipe_for(tmp_path, **{"data.images": "images/*.tif", "data.labels": "no.gpkg"}).data)


def test_parts_of_a_shapefile_are_no_labels(tmp_path):
    touch(tmp_path, "i/a.tif", *(f"l/a.{ending}" for ending in ("shp", "shx", "dbf", "prj", "cpg")))
    assert find(section(tmp_path, "i/*", "l/{id}.*"))[0].label == f"{tmp_path}/l/a.shp"


@given(
    ids=st.lists(st.text("ab_1", min_size=1, max_size=4), min_size=1, max_size=6, unique=True),
    pattern=st.sampled_from(["{id}.tif", "x_{id}_y.tif", "d/{id}/{id}_m.tif", "*/{id}.tif"]),
)
def test_ids_and_files_find_each_other(ids, pattern):
    files = [f"/base/{pattern.replace('*', 'q').replace('{id}', i)}" for i in ids]
    assert pairing.ids_in(files, pattern, "/base") == {i: [f] for i, f in zip(ids, files, strict=True)}
    assert pairing.files_of(ids, files, pattern, "/base") == {i: [f] for i, f in zip(ids, files, strict=True)}


def test_folders_are_scenes_where_the_pattern_ends_with_a_slash(tmp_path):
    touch(tmp_path, "scans/a/1.dcm", "scans/b/1.dcm", "scans/other.txt", "seg/a.zarr/zarr.json", "seg/b.zarr/zarr.json")
    found = find(section(tmp_path, "scans/*/", "seg/{id}.zarr/"))
    assert [(f.id, f.image, f.label) for f in found] == [
        (i, f"{tmp_path}/scans/{i}", f"{tmp_path}/seg/{i}.zarr") for i in "ab"
    ]
