"""Bundles: what is saved is what is loaded, and whatever is wrong with one is said."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from pipeline import store
from pipeline.errors import BundleError, StorageError
from pipeline.model import bundle as bundles
from pipeline.model.bundle import META, WEIGHTS
from pipeline.recipe.networks import UNet
from tests.model import small
from tests.servers import S3


def images(num_bands: int = 4) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(100, 300, (2, num_bands, 40, 50), generator=generator).to(torch.uint16)


@pytest.fixture(params=["local", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "local":
        return str(tmp_path / "deep" / "bundle")
    server: S3 = request.getfixturevalue("s3_server")
    return server.uri("bundle")


def test_saved_and_loaded(place: str) -> None:
    saved = small.save(place)
    loaded = bundles.load(place)
    for field in dataclasses.fields(saved):
        if field.name != "scores":
            assert getattr(loaded, field.name) == getattr(saved, field.name), field.name
    assert loaded.scores["miou"] == 0.5
    assert math.isnan(loaded.scores["iou.town"])
    assert (loaded.num_bands, loaded.digest) == (4, saved.weights_sha256[:12])
    assert store.list_files(place) == [META, WEIGHTS]


def test_the_network_is_the_one_that_was_saved(place: str) -> None:
    small.save(place, seed=3)
    network = bundles.load(place).network
    assert not network.training
    torch.manual_seed(3)
    expected = bundles.build(UNet(encoder="resnet10t", depth=2, decoder_channels=[16, 8]), 4, 3)
    expected.set_statistics((200.0, 201.0, 202.0, 203.0), (60.0,) * 4)
    with torch.inference_mode():
        assert torch.allclose(network(images()), expected.eval()(images()), atol=1e-5)


def test_equal_weights_give_equal_bytes(tmp_path: Path) -> None:
    assert small.save(tmp_path / "a").digest == small.save(tmp_path / "b").digest
    assert small.save(tmp_path / "c", seed=1).digest != small.save(tmp_path / "a").digest
    assert [p.name for p in sorted(tmp_path.iterdir())] == ["a", "b", "c"]


def test_building_a_network_leaves_the_random_state_alone(tmp_path: Path) -> None:
    bundle = small.save(tmp_path / "a")
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    _ = bundle.network
    assert torch.equal(torch.rand(3), expected)


def test_a_pretrained_encoder_is_not_fetched_again(tmp_path: Path) -> None:
    section = UNet(encoder="resnet10t", depth=2, decoder_channels=[16, 8], pretrained=True)
    small.save(tmp_path / "a", model=section)
    assert bundles.load(tmp_path / "a").network(images()).shape == (2, 3, 40, 50)


def test_no_pickle(tmp_path: Path) -> None:
    small.save(tmp_path / "a")
    assert {p.suffix for p in (tmp_path / "a").iterdir()} == {".json", ".safetensors"}
    assert json.loads((tmp_path / "a" / META).read_text())["scores"]["iou.town"] is None


def test_not_a_bundle(tmp_path: Path) -> None:
    for place in (tmp_path / "missing", tmp_path):
        with pytest.raises(BundleError, match=r"is not a bundle: it has no bundle\.json") as caught:
            bundles.load(place)
        assert caught.value.exit_code == 3
    (tmp_path / "file").write_text("x")
    with pytest.raises(BundleError, match="is not a bundle"):
        bundles.load(tmp_path / "file")
    small.save(tmp_path / "run" / "bundle")
    with pytest.raises(BundleError) as caught:
        bundles.load(tmp_path / "run")
    assert caught.value.hint == f"did you mean {tmp_path / 'run' / 'bundle'}?"


def test_foreign_json(tmp_path: Path) -> None:
    (tmp_path / META).write_text('{"weights": 1}')
    with pytest.raises(BundleError, match="has no bundle_version"):
        bundles.load(tmp_path)
    (tmp_path / META).write_text("{ half")
    with pytest.raises(BundleError, match=r"bundle\.json is damaged"):
        bundles.load(tmp_path)


def test_newer_version_says_which_program_reads_it(tmp_path: Path) -> None:
    small.save(tmp_path / "a")
    path = tmp_path / "a" / META
    # A newer one may lack what this one needs: the version must be looked at first.
    path.write_text(json.dumps({"bundle_version": 4, "program": "9.8.7"}))
    with pytest.raises(
        BundleError, match=r"bundle of version 4, saved by segpipe 9\.8\.7.*reads versions up to 3"
    ) as caught:
        bundles.load(tmp_path / "a")
    assert caught.value.hint == "install segpipe 9.8.7 or newer"


def _reverse_names(tree: dict) -> None:
    tree["classes"]["names"].reverse()


def _reverse_bands(tree: dict) -> None:
    tree["bands"].reverse()


def _shift_mean(tree: dict) -> None:
    tree["statistics"]["mean"][0] += 1


def _larger_window(tree: dict) -> None:
    tree["predict"]["window"] = 128


def _other_recipe(tree: dict) -> None:
    tree["recipe"]["data"]["nodata"] = 5


def _no_digest(tree: dict) -> None:
    del tree["sha256"]


@pytest.mark.parametrize(
    "change", [_reverse_names, _reverse_bands, _shift_mean, _larger_window, _other_recipe, _no_digest]
)
def test_changed_json_is_refused(place: str, change: Callable[[dict], None]) -> None:
    small.save(place)
    tree = store.read_json(store.join(place, META))
    change(tree)
    store.write_json(store.join(place, META), tree)
    with pytest.raises(BundleError, match=r"bundle\.json has changed since the bundle was made"):
        bundles.load(place)


def test_json_in_another_layout_is_the_same(tmp_path: Path) -> None:
    saved = small.save(tmp_path / "a")
    path = tmp_path / "a" / META
    path.write_text(json.dumps(json.loads(path.read_text()), sort_keys=True, indent=3))
    assert bundles.load(tmp_path / "a").meta_sha256 == saved.meta_sha256


def test_a_bundle_of_an_older_version_has_no_digest(tmp_path: Path) -> None:
    small.save(tmp_path / "a", recipe={"data": {"nodata": None, "reading": {}}})
    path = tmp_path / "a" / META
    tree = json.loads(path.read_text()) | {"bundle_version": 2}
    for key in ("sha256", "file_bands", "pixel_size", "file_nodata"):
        del tree[key]
    path.write_text(json.dumps(tree))
    loaded = bundles.load(tmp_path / "a")
    assert (loaded.meta_sha256, loaded.file_bands, loaded.nodata) == (None, (), None)
    assert loaded.reading.nodata_rule == "any"


@pytest.mark.parametrize("key", ["model", "classes", "bands", "statistics", "weights_sha256", "recipe"])
def test_incomplete_json_names_what_is_missing(tmp_path: Path, key: str) -> None:
    small.save(tmp_path / "a")
    path = tmp_path / "a" / META
    tree = json.loads(path.read_text())
    del tree[key]
    path.write_text(json.dumps(tree))
    with pytest.raises(BundleError, match=rf"damaged \(no '{key}'\)"):
        bundles.load(tmp_path / "a")


def test_statistics_of_other_bands(tmp_path: Path) -> None:
    small.save(tmp_path / "a", bands=("red", "green"))
    with pytest.raises(BundleError, match="2 bands but statistics of 4"):
        bundles.load(tmp_path / "a")


def test_missing_weights(place: str) -> None:
    small.save(place)
    store.remove(store.join(place, WEIGHTS))
    with pytest.raises(BundleError, match=r"is incomplete: it has no weights\.safetensors"):
        bundles.load(place)


def test_changed_weights(place: str) -> None:
    small.save(place)
    data = bytearray(store.read_bytes(store.join(place, WEIGHTS)))
    data[-1] ^= 1
    store.write_bytes(store.join(place, WEIGHTS), bytes(data))
    with pytest.raises(BundleError, match=r"weights\.safetensors has changed since it was saved"):
        bundles.load(place)


def test_weights_of_another_network(tmp_path: Path) -> None:
    bundle = small.save(tmp_path / "a")
    weights = load_file(tmp_path / "a" / WEIGHTS)
    weights.pop(next(name for name in weights if name.startswith("head")))
    save_file(weights, tmp_path / "a" / WEIGHTS)
    with pytest.raises(BundleError, match="do not fit the network"):
        _ = bundle.network


def test_saving_again_replaces(place: str) -> None:
    first, second = small.save(place), small.save(place, seed=1)
    assert bundles.load(place).digest == second.digest != first.digest


def test_storage_that_is_away_is_not_called_a_bad_bundle(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "x")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "x")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(StorageError, match=r"127\.0\.0\.1:9"):
        bundles.load("s3://bucket/x")
