"""Sliding windows: equal to blending the whole array naively, with little memory, whatever the batch."""

from __future__ import annotations

import gc
import tracemalloc
from collections.abc import Callable, Iterator
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from pipeline.data.labels.classes import IGNORE
from pipeline.data.rasters.windows import Window, cover
from pipeline.prediction.blend import Read, blended, filled, stream, window_weight
from pipeline.recipe import Predict

FILL = (7.0, 9.0)
CLASSES = 3


class Edgy(nn.Module):
    """A small convolution, so that what a pixel gets depends on where in the window it lies."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(2, CLASSES, 5, padding=2)

    def forward(self, image: Tensor) -> Tensor:
        return self.conv(image.float() / 50)


def scene(height: int, width: int, *, holes: bool = True) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(height * 1000 + width)
    image = rng.integers(0, 200, (2, height, width)).astype(np.uint8)
    valid = np.ones((height, width), bool)
    if holes:
        valid[: height // 3, : width // 4] = False
    return image, valid


def reader(image: np.ndarray, valid: np.ndarray) -> Read:
    def read(window: Window) -> tuple[np.ndarray, np.ndarray]:
        pixels = np.zeros((len(image), window.height, window.width), image.dtype)
        mask = np.zeros((window.height, window.width), bool)
        part = image[:, window.row : window.row + window.height, window.col : window.col + window.width]
        pixels[:, : part.shape[1], : part.shape[2]] = part
        mask[: part.shape[1], : part.shape[2]] = valid[
            window.row : window.row + window.height, window.col : window.col + window.width
        ]
        return pixels, mask

    return read


def weight_by_hand(size: int, blend: str) -> np.ndarray:
    profile = []
    for i in range(size):
        distance = abs(i + 0.5 - size / 2)
        if blend == "constant":
            profile.append(1.0)
        elif blend == "linear":
            profile.append(1 - distance / (size / 2))
        else:
            profile.append(np.exp(-0.5 * (distance / (size / 8)) ** 2))
    return np.maximum(np.outer(profile, profile), 1e-3)


def naive(network: nn.Module, image: np.ndarray, valid: np.ndarray, section: Predict) -> tuple[np.ndarray, np.ndarray]:
    """Mean probabilities [K, H, W] with whole arrays in float64, one window at a time."""
    size = section.window
    height, width = valid.shape
    tall, wide = max(height, size), max(width, size)
    padded = np.zeros((len(image), tall, wide), image.dtype)
    padded[:, :height, :width] = image
    inside = np.zeros((tall, wide), bool)
    inside[:height, :width] = valid
    for band, value in enumerate(FILL):
        padded[band][~inside] = round(value)
    total = np.zeros((CLASSES, tall, wide))
    weights = np.zeros((tall, wide))
    for row, col, h, w, _ in cover(height, width, size, section.overlap):
        part = torch.from_numpy(padded[None, :, row : row + h, col : col + w])
        with torch.no_grad():
            probabilities = network(part).double().softmax(1)[0].numpy()
        total[:, row : row + h, col : col + w] += probabilities * weight_by_hand(size, section.blend)
        weights[row : row + h, col : col + w] += weight_by_hand(size, section.blend)
    return (total / weights)[:, :height, :width], weights[:height, :width]


def run(network: nn.Module, image: np.ndarray, valid: np.ndarray, section: Predict) -> tuple[np.ndarray, np.ndarray]:
    """The prediction and validity of a whole scene, from strips that must be in order and without gaps."""
    height, width = valid.shape
    rows, prediction, seen = 0, [], []
    for row, strip, mask in stream(
        network, reader(image, valid), height, width, num_classes=CLASSES, section=section, fill=FILL
    ):
        assert row == rows and strip.shape == mask.shape == (len(strip), width) and strip.dtype == np.uint8
        rows += len(strip)
        prediction.append(strip)
        seen.append(mask)
    assert rows == height
    return np.concatenate(prediction), np.concatenate(seen)


@pytest.mark.parametrize("blend", ["gaussian", "linear", "constant"])
@pytest.mark.parametrize(("height", "width"), [(70, 53), (32, 32), (33, 90), (20, 75), (75, 20), (9, 11), (1, 1)])
def test_equal_to_naive_blending(blend: str, height: int, width: int) -> None:
    section = Predict(window=32, overlap=0.4, blend=blend, batch=3)
    network = Edgy()
    image, valid = scene(height, width)
    expected, weights = naive(network, image, valid, section)
    strips = blended(network, reader(image, valid), height, width, num_classes=CLASSES, section=section, fill=FILL)
    sums = torch.cat([sums.clone() for _, sums, _ in strips], dim=1).numpy()
    means = sums / sums.sum(0).clip(1e-12)
    assert np.abs(means - expected)[:, valid].max(initial=0) < 1e-5
    # Windows without a valid pixel are not computed: elsewhere the sum over the classes is the sum of the weights.
    assert np.allclose(sums.sum(0)[valid], weights[valid], atol=1e-5)

    prediction, seen = run(network, image, valid, section)
    assert (seen == valid).all()
    assert (prediction[~valid] == IGNORE).all()
    best = np.sort(expected, axis=0)
    clear = valid & (best[-1] - best[-2] > 1e-5)
    assert clear.sum() >= 0.9 * valid.sum()
    assert (prediction[clear] == expected.argmax(0)[clear]).all()


def test_the_batch_does_not_matter() -> None:
    image, valid = scene(90, 70)
    one, *others = [run(Edgy(), image, valid, Predict(window=32, overlap=0.3, batch=n))[0] for n in (1, 2, 5, 100)]
    assert all((one == other).all() for other in others)


@pytest.mark.parametrize("blend", ["gaussian", "linear", "constant"])
def test_a_constant_network_gives_a_constant(blend: str) -> None:
    class Constant(nn.Module):
        def forward(self, image: Tensor) -> Tensor:
            return torch.tensor([0.1, 0.3, 0.2]).view(1, 3, 1, 1).expand(len(image), 3, *image.shape[-2:])

    image, valid = scene(77, 101, holes=False)
    section = Predict(window=24, overlap=0.5, blend=blend)
    assert (run(Constant(), image, valid, section)[0] == 1).all()
    expected = torch.tensor([0.1, 0.3, 0.2]).softmax(0)
    strips = blended(Constant(), reader(image, valid), 77, 101, num_classes=3, section=section, fill=FILL)
    for _, sums, _ in strips:
        assert torch.allclose(sums / sums.sum(0), expected.view(3, 1, 1).expand_as(sums), atol=1e-6)


def test_without_overlap_it_is_plain_tiling() -> None:
    image, valid = scene(64, 96, holes=False)
    network = Edgy()
    prediction, _ = run(network, image, valid, Predict(window=32, overlap=0.0))
    for row in range(0, 64, 32):
        for col in range(0, 96, 32):
            with torch.no_grad():
                logits = network(torch.from_numpy(image[None, :, row : row + 32, col : col + 32]))
            assert (prediction[row : row + 32, col : col + 32] == logits.argmax(1)[0].numpy()).all()


def test_what_lies_under_invalid_pixels_changes_nothing() -> None:
    image, valid = scene(60, 60)
    other = image.copy()
    other[:, ~valid] = 255
    section = Predict(window=32, overlap=0.25)
    assert (run(Edgy(), image, valid, section)[0] == run(Edgy(), other, valid, section)[0]).all()


def test_a_scene_without_a_valid_pixel_is_all_ignore_and_costs_nothing() -> None:
    class Never(nn.Module):
        def forward(self, image: Tensor) -> Tensor:
            raise AssertionError("called for nothing")

    image, valid = scene(50, 40)
    valid[:] = False
    prediction, seen = run(Never(), image, valid, Predict(window=32))
    assert (prediction == IGNORE).all() and not seen.any()


@settings(max_examples=60, deadline=None)
@given(
    size=st.integers(1, 40),
    height=st.integers(1, 120),
    width=st.integers(1, 120),
    overlap=st.floats(0, 0.9),
    blend=st.sampled_from(["gaussian", "linear", "constant"]),
)
def test_every_pixel_gets_a_positive_weight(size: int, height: int, width: int, overlap: float, blend: str) -> None:
    weight = window_weight(size, blend).numpy()
    assert weight.shape == (size, size) and weight.min() > 0
    assert np.allclose(weight, weight[::-1]) and np.allclose(weight, weight.T)
    total = np.zeros((max(height, size), max(width, size)))
    for window in cover(height, width, size, overlap):
        total[window.row : window.row + size, window.col : window.col + size] += weight
    assert total[:height, :width].min() > 0


@pytest.mark.parametrize(
    ("dtype", "values", "expected"),
    [(np.uint8, (3.6, 300.0), (4, 255)), (np.int16, (-2.5, 1.4), (-2, 1)), (np.float32, (0.25, -1.5), (0.25, -1.5))],
)
def test_fill_is_rounded_to_the_type(dtype: type, values: tuple[float, ...], expected: tuple[float, ...]) -> None:
    image = np.full((2, 2, 2), 9, dtype)
    valid = np.array([[True, False], [True, True]])
    out = filled(image, valid, values)
    assert out.dtype == dtype
    assert tuple(out[:, 0, 1]) == expected
    assert (out[:, valid] == 9).all()


def tensor_bytes() -> int:
    # `type`, since isinstance would wake torch's deprecated lazy objects
    return sum(t.nbytes for t in gc.get_objects() if type(t) is Tensor)


def held(strips: Iterator[object]) -> int:
    """Largest number of bytes in tensors while the strips pass by, looked at now and then."""
    return max(tensor_bytes() for number, _ in enumerate(strips) if number % 25 == 0)


def test_memory_is_bounded_by_the_window_not_by_the_height() -> None:
    size, width = 32, 64

    class Flat(nn.Module):
        def forward(self, image: Tensor) -> Tensor:
            return torch.zeros(len(image), CLASSES, size, size)

    def synthetic(window: Window) -> tuple[np.ndarray, np.ndarray]:
        return np.ones((2, size, size), np.uint8), np.ones((size, size), bool)

    def peak(height: int, measure: Callable[[Iterator[object]], int]) -> int:
        section = Predict(window=size, overlap=0.25, batch=2)
        return measure(stream(Flat(), synthetic, height, width, num_classes=CLASSES, section=section, fill=FILL))

    def traced(strips: Iterator[object]) -> int:
        tracemalloc.start()
        for _ in strips:
            pass
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return most

    before = tensor_bytes()
    accumulators = CLASSES * size * width * 4
    assert peak(6_000, held) - before < 4 * accumulators  # the whole scene would be nearly 200 times as much
    short, tall = peak(1_000, traced), peak(10_000, traced)
    assert tall < 1.5 * short + 100_000  # a map of the whole scene would be 640 000 bytes


def test_strips_come_as_soon_as_they_are_finished() -> None:
    image, valid = scene(128, 40)
    tops: list[int] = []

    def read(window: Window) -> tuple[np.ndarray, np.ndarray]:
        tops.append(window.row)
        return reader(image, valid)(window)

    strips = stream(
        Edgy(), read, 128, 40, num_classes=CLASSES, section=Predict(window=32, overlap=0.5, batch=1), fill=FILL
    )
    row, strip, _ = next(strips)
    assert (row, len(strip)) == (0, 16)
    assert max(tops) <= 32  # one window of the next row, and the one read ahead
    assert all(b >= a for a, b in pairwise(tops))


def test_multilabel_is_what_is_likelier_than_not_on_average():
    section = Predict(window=16, overlap=0.5, blend="linear", batch=2)
    image = np.random.default_rng(0).normal(0, 3, (2, 37, 29)).astype(np.float32)
    valid = np.ones((37, 29), bool)
    valid[5:9, :20] = False

    def read(window):
        pixels, inside = np.zeros((2, 16, 16), np.float32), np.zeros((16, 16), bool)
        rows, cols = slice(window.row, window.row + 16), slice(window.col, window.col + 16)
        part = image[:, rows, cols]
        pixels[:, : part.shape[1], : part.shape[2]] = part
        inside[: part.shape[1], : part.shape[2]] = valid[rows, cols]
        return pixels, inside

    class Planes(nn.Module):
        """Three logits that depend on where in the window a pixel is."""

        def forward(self, x):
            slope = torch.linspace(-1, 1.3, 16)
            return torch.stack([x[:, 0] + slope, x[:, 1] * slope, x[:, 0] - x[:, 1]], 1)

    weight, likely = window_weight(16, "linear").double(), np.zeros((2, 3, 48, 48))
    for window in cover(37, 29, 16, 0.5):
        pixels, inside = read(window)
        probability = Planes()(torch.from_numpy(np.where(inside, pixels, 0))[None])[0].double().sigmoid()
        here = (slice(None), slice(window.row, window.row + 16), slice(window.col, window.col + 16))
        likely[0][here] += (probability * weight).numpy()
        likely[1][here] += weight.numpy()
    expected = (likely[0] > 0.5 * likely[1])[:, :37, :29].astype(np.uint8)
    expected[:, ~valid] = IGNORE
    strips = list(stream(Planes(), read, 37, 29, num_classes=3, section=section, fill=(0, 0), task="multilabel"))
    assert sum(strip.shape[1] for _, strip, _ in strips) == 37
    np.testing.assert_array_equal(np.concatenate([strip for _, strip, _ in strips], 1), expected)
