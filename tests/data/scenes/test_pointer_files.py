"""Files whose content was not fetched are known by what stands for them, each with the command that fetches it."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.data.doctor import examine
from pipeline.data.scenes.pointer_files import pointer, unfetched
from tests.factory import make_scene, recipe_for

LFS = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"


def planted(folder: Path) -> None:
    for number in range(3):
        make_scene(folder, f"s{number}", seed=number)
    images = folder / "images"
    (images / "annex.tif").symlink_to("../.git/annex/objects/Xx/1z/SHA256E-s9--ab.tif/SHA256E-s9--ab.tif")
    (images / "locked.tif").write_text("/annex/objects/SHA256E-s9--ab.tif\n")
    (images / "large.tif").write_text(LFS)
    (images / "tracked.tif.dvc").write_text("outs:\n- md5: 0f\n  path: tracked.tif\n")
    (images / "gone.tif").symlink_to(folder / "elsewhere.tif")


def test_each_kind_is_known_with_its_command(tmp_path: Path) -> None:
    planted(tmp_path)
    found = {Path(p.path).name: p for p in unfetched("images/*.tif", str(tmp_path))}
    assert {name: p.kind for name, p in found.items()} == {
        "annex.tif": "git-annex",
        "locked.tif": "git-annex",
        "large.tif": "Git LFS",
        "tracked.tif": "DVC",
        "gone.tif": "link",
    }
    assert found["annex.tif"].command == f"git annex get {tmp_path}/images/annex.tif"
    assert found["tracked.tif"].command == f"dvc pull {tmp_path}/images/tracked.tif"
    assert found["large.tif"].command == "git lfs pull" and found["gone.tif"].command == ""
    assert found["gone.tif"].target == str(tmp_path / "elsewhere.tif")


def test_a_folder_that_dvc_tracks_and_links_into_folders(tmp_path: Path) -> None:
    (tmp_path / "images.dvc").write_text("outs:\n- md5: 0f.dir\n  path: images\n")
    (found,) = unfetched("images/*.tif", str(tmp_path))
    assert found.kind == "DVC" and found.command == f"dvc pull {tmp_path}/images"
    assert unfetched("scans/*.tif", str(tmp_path)) == [] and unfetched("images/*.tif", "s3://bucket/a") == []


def test_ordinary_files_stand_for_themselves(tmp_path: Path) -> None:
    make_scene(tmp_path, "s0")
    (tmp_path / "images" / "link.tif").symlink_to("s0.tif")
    assert unfetched("images/*.tif", str(tmp_path)) == [] and pointer("s3://bucket/a.tif") is None
    (tmp_path / "images" / "deep").mkdir()
    (tmp_path / "images" / "deep" / "gone.tif").symlink_to("nowhere")
    assert unfetched("images/*.tif", str(tmp_path)) == [], "the glob does not reach into it"
    assert len(unfetched("images/**/*.tif", str(tmp_path))) == 1


@pytest.mark.parametrize("what", ["images", "masks"])
def test_the_doctor_names_them_and_the_command(tmp_path: Path, what: str) -> None:
    for number in range(4):
        make_scene(tmp_path, f"s{number}", seed=number)
    ending = "tif" if what == "images" else "png"
    file = tmp_path / what / f"s1.{ending}"
    file.unlink()
    file.symlink_to("../.git/annex/objects/a/b/SHA256E-s9--ab/SHA256E-s9--ab")
    found = examine(recipe_for(tmp_path), str(tmp_path / "report"))
    (finding,) = [f for f in found.findings if f.kind == "not_fetched"]
    assert finding.severity == "error" and f"s1.{ending}" in finding.what and "git-annex" in finding.what
    assert finding.command == f"git annex get {file}" and found.exit_code == 3
