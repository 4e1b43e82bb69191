"""Large maps a strip of rows at a time: the same numbers, and nothing of full size in between."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.model.decoders import strips
from pipeline.model.decoders.unet import UpBlock
from pipeline.recipe.networks import UNet
from tests.model.decoders.against import move


def block(**options):
    torch.manual_seed(0)
    made = UpBlock(5, 0, 4, UNet(**options)).eval()
    move(made)
    return made


@settings(deadline=None, max_examples=40)
@given(
    height=st.integers(1, 40),
    count=st.integers(1, 3),
    rows=st.integers(1, 12),
    interpolation=st.sampled_from(["nearest", "bilinear"]),
    norm=st.sampled_from(["batch", "none"]),
)
def test_strips_join_to_the_whole(height, count, rows, interpolation, norm):
    made, x = block(interpolation=interpolation, norm=norm).double(), torch.randn(count, 5, height, 6).double()
    with pytest.MonkeyPatch.context() as patch, torch.no_grad():
        patch.setattr(strips, "ELEMENTS", 4 * 6 * 4 * rows)
        assert strips.pay(x, 4, made.conv1[1]) == (height > 2 * rows)
        found = strips.doubled(lambda strip: made.conv2(made.conv1(strip)), x, 4, 2)
    torch.testing.assert_close(found, made.conv2(made.conv1(x)))


def test_a_block_takes_strips_only_where_each_row_is_for_itself(monkeypatch):
    monkeypatch.setattr(strips, "ELEMENTS", 64)
    seen = []
    doubled = strips.doubled
    monkeypatch.setattr(strips, "doubled", lambda *args, **how: seen.append(1) or doubled(*args, **how))
    x, skip = torch.randn(1, 5, 16, 8), torch.randn(1, 5, 32, 16)
    with torch.no_grad():
        for options in ({}, {"norm": "none"}):
            made = block(**options)
            whole = made.conv2(made.conv1(x))
            torch.testing.assert_close(made(x), whole)
        assert len(seen) == 2
        block(norm="group")(x)
        block().train()(x)
        UpBlock(5, 5, 4, UNet()).eval()(x, skip)
    block()(x)  # with gradients
    assert len(seen) == 2
