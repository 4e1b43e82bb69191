"""What the check lets through works: every transform of albumentations, on chips of every kind."""

from __future__ import annotations

import pytest

from bench.augment_table import BANDS, RANGES, fault, names, passes
from pipeline.data.chips.augmentation.augment import check, example
from pipeline.errors import RecipeError
from pipeline.recipe import Augment

NAMES = names()


@pytest.mark.parametrize("name", ["ColorJitter", "MaskDropout", *NAMES[::6]])
def test_what_the_check_lets_through_works(name):
    for bands, dtype in ((1, "float32"), (3, "uint8"), (4, "uint16"), (13, "int16")):
        if passes(name, bands, dtype):
            assert fault(name, bands, dtype) == ""


@pytest.mark.slow
@pytest.mark.parametrize("planes", [None, 3])
@pytest.mark.parametrize("size", [33, 48])
@pytest.mark.parametrize("name", NAMES)
def test_what_the_check_lets_through_works_on_all_chips(name, size, planes):
    for bands in BANDS:
        for dtype in RANGES:
            if passes(name, bands, dtype, size, planes):
                assert fault(name, bands, dtype, size, planes) == ""


def test_colour_jitter_augments_rgb_and_is_refused_where_it_cannot():
    assert passes("ColorJitter", 3, "uint8")
    with pytest.raises(RecipeError, match="ColorJitter does not work on 4 bands of uint8"):
        check([Augment(transform="ColorJitter")], example=example([0] * 4, [255] * 4, 32, "uint8"))


def test_a_transform_of_one_mask_is_refused_for_several():
    assert passes("MaskDropout", 3, "uint8")
    with pytest.raises(RecipeError, match="MaskDropout does not work"):
        check([Augment(transform="MaskDropout")], example=example([0] * 3, [255] * 3, 32, "uint8"), planes=2)


@pytest.mark.parametrize("name", ["BasicTransform", "DualTransform", "ImageOnlyTransform", "BaseCompose", "Lambda"])
def test_what_is_no_transform_is_refused(name):
    with pytest.raises(RecipeError, match=name):
        check([Augment(transform=name)])


def test_the_table_of_the_docs_names_what_works():
    assert {"D4", "ColorJitter", "GaussianBlur"} <= set(NAMES)
    assert not {"Normalize", "Lambda", "OneOf", "BasicTransform"} & set(NAMES)
