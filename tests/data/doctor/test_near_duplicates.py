"""Equal content: crops of one image are known by what they share, copies by their looks, and different ones are not."""

from __future__ import annotations

import cv2
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from bench import doctor_worlds as made
from pipeline.data.doctor import near_duplicates


def texture(seed: int, height: int = 300, width: int = 300, bands: int = 3) -> np.ndarray:
    rng = np.random.default_rng(seed)
    smooth = cv2.GaussianBlur(rng.normal(0, 1, (height, width, bands)).astype(np.float32), (0, 0), 4)
    return np.moveaxis((128 + 300 * smooth).clip(0, 255).astype(np.uint8), -1, 0)


def marks(pixels: np.ndarray) -> near_duplicates.Marks:
    return near_duplicates.marks(pixels, np.ones(pixels.shape[1:], bool))


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 120), st.integers(0, 120))
def test_crops_of_one_image_share_marks_at_one_displacement(row: int, col: int) -> None:
    whole = texture(0)
    found = near_duplicates.sharing(
        {"a": marks(whole[:, :180, :180]), "b": marks(whole[:, row : row + 180, col : col + 180])}
    )
    assert [(p.first, p.second) for p in found] == [("a", "b")]
    assert "same place" in found[0].how if row == col == 0 else f"{row} rows and {col} columns" in found[0].how


def test_different_images_share_nothing() -> None:
    assert near_duplicates.sharing({str(seed): marks(texture(seed)) for seed in range(6)}) == []


def test_flat_areas_are_no_evidence() -> None:
    flat = np.zeros((3, 200, 200), np.uint8)
    flat[:, 100:] = 255
    assert len(marks(flat)) == 0
    assert near_duplicates.sharing({"a": marks(flat), "b": marks(flat)}) == []


def test_invalid_pixels_are_no_evidence() -> None:
    pixels = texture(1)
    valid = np.zeros((300, 300), bool)
    valid[:, :150] = True
    assert near_duplicates.marks(pixels, valid).places[:, 1].max() <= 150 - near_duplicates.BLOCK


def test_marks_work_on_every_dtype_and_are_bounded() -> None:
    for dtype in (np.uint16, np.int16, np.float32):
        pixels = (texture(2, 600, 600).astype(np.float64) * 3 - 90).astype(dtype)
        found = marks(pixels)
        assert 100 < len(found) <= 2048
        assert found.codes.tolist() == marks(pixels.copy()).codes.tolist()
    assert len(marks(np.zeros((1, 4, 4), np.uint8))) == 0 and near_duplicates.sharing({}) == []


def picture(pixels: np.ndarray) -> np.ndarray:
    found = near_duplicates.thumbnail_of(pixels, np.ones(pixels.shape[1:], bool))
    assert found is not None
    return found


def test_a_copy_of_other_size_brightness_and_compression_looks_alike() -> None:
    base = texture(3)
    smaller = np.moveaxis(cv2.resize(np.moveaxis(base, 0, -1), (170, 190), interpolation=cv2.INTER_AREA), -1, 0)
    _, jpeg = cv2.imencode(".jpg", np.moveaxis(base, 0, -1), [cv2.IMWRITE_JPEG_QUALITY, 40])
    lossy = np.moveaxis(cv2.imdecode(jpeg, cv2.IMREAD_COLOR), -1, 0)
    darker = (base * 0.6).astype(np.uint8)
    thumbnails = {
        "base": picture(base),
        "smaller": picture(smaller),
        "lossy": picture(lossy),
        "darker": picture(darker),
    }
    thumbnails |= {f"other{seed}": picture(texture(seed)) for seed in range(10, 40)}
    pairs = {frozenset((p.first, p.second)) for p in near_duplicates.similar(thumbnails).pairs}
    assert len(pairs) == 6 and all("other" not in name for pair in pairs for name in pair)


def test_the_small_picture_is_the_mean_of_areas() -> None:
    pixels = texture(4, 320, 64 * 4)
    areas = pixels.astype(np.float64).mean(axis=0).reshape(32, 10, 32, 8).mean(axis=(1, 3))
    expected = (areas - areas.mean()) / areas.std()
    np.testing.assert_allclose(picture(pixels), expected, atol=1e-4)


def test_flat_and_invalid_pictures_are_not_compared() -> None:
    flat = np.full((1, 50, 50), 9, np.uint8)
    assert near_duplicates.thumbnail_of(flat, np.ones((50, 50), bool)) is None
    assert near_duplicates.thumbnail_of(texture(0), np.zeros((300, 300), bool)) is None
    assert near_duplicates.similar({}).pairs == ()


def test_pairs_are_listed_once() -> None:
    first, second = near_duplicates.Pair("a", "b", "equal files"), near_duplicates.Pair("b", "a", "equal pixels")
    assert near_duplicates.merged([[first], [second]]) == [first]


def jpeg(pixels: np.ndarray) -> np.ndarray:
    _, stored = cv2.imencode(".jpg", np.moveaxis(pixels, 0, -1), [cv2.IMWRITE_JPEG_QUALITY, 50])
    return np.moveaxis(cv2.imdecode(stored, cv2.IMREAD_COLOR), -1, 0)


def similar(views: dict[str, np.ndarray]) -> near_duplicates.Similar:
    thumbnails = {i: picture(pixels) for i, pixels in views.items()}
    small = {
        i: np.stack([cv2.resize(b, (144, 144), interpolation=cv2.INTER_AREA) for b in p]) for i, p in views.items()
    }
    return near_duplicates.similar(
        thumbnails, {i: near_duplicates.detail(p, np.ones(p.shape[1:], bool)) for i, p in small.items()}
    )


def test_scenes_of_one_view_are_no_copies_and_true_copies_among_them_are_found() -> None:
    views = {f"r{n:02}": made.as_bytes(made.retinas(n)[0]) for n in range(20)}
    found = similar(views)
    assert found.pairs == () and not found.telling and found.num_pairs == 190
    views["jpeg"] = jpeg(views["r03"])
    views["dark"] = (views["r07"] * 0.7 + 10).astype(np.uint8)
    views["crop"] = views["r11"][:, 2:-3, 3:-2]
    found = similar(views)
    assert {(p.first, p.second) for p in found.pairs} == {("jpeg", "r03"), ("dark", "r07"), ("crop", "r11")}


def test_different_scenes_are_told_apart_by_their_pictures() -> None:
    found = near_duplicates.similar({str(n): picture(made.as_bytes(made.buildings(n)[0])) for n in range(30)})
    assert found.pairs == () and found.telling
