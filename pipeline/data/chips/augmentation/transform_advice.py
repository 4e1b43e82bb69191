"""Alternatives to transforms that do not work on any number of bands and any dtype."""

from __future__ import annotations

from typing import Final

_LIGHT: Final = "RandomBrightnessContrast (brightness_by_max: false) and RandomGamma change light in any bands"
_BANDS: Final = "MultiplicativeNoise (per_channel: true), ChannelDropout and ChannelShuffle change bands apart"
_NOISE: Final = "MultiplicativeNoise (elementwise: true) is noise for any bands"
_BLUR: Final = "GaussianBlur and MotionBlur take detail away from any bands of uint8, uint16 and floats in 0..1"
_SHADE: Final = "RandomBrightnessContrast and CoarseDropout hide and shade parts of any bands"

ADVICE: Final[dict[str, str]] = {
    **dict.fromkeys(("CLAHE", "Equalize", "AutoContrast", "RandomToneCurve", "Solarize", "Posterize"), _LIGHT),
    **dict.fromkeys(("HueSaturationValue", "ColorJitter", "RGBShift", "ToGray", "ToSepia", "ToRGB"), _BANDS),
    **dict.fromkeys(("FancyPCA", "PlanckianJitter", "HEStain", "ChromaticAberration"), _BANDS),
    **dict.fromkeys(("GaussNoise", "ISONoise", "ShotNoise", "AdditiveNoise", "SaltAndPepper"), _NOISE),
    **dict.fromkeys(("ImageCompression", "Superpixels", "Spatter"), _BLUR),
    **dict.fromkeys(("RandomRain", "RandomSnow", "RandomFog", "RandomSunFlare", "RandomShadow"), _SHADE),
    **dict.fromkeys(("RandomGravel", "PlasmaShadow", "PlasmaBrightnessContrast", "Illumination"), _SHADE),
    "RandomBrightnessContrast": "set brightness_by_max: false, which goes by the image's mean, not the dtype's limit",
    "RandomGamma": "RandomBrightnessContrast (brightness_by_max: false) works on negative values, too",
}
"""Name of a transform -> what works on any bands."""

REFUSED: Final[dict[str, str]] = {
    "Normalize": "the network normalises by itself: set data.normalise",
    "ToFloat": "the network takes the files' own dtype: leave it out",
    "FromFloat": "the network takes the files' own dtype: leave it out",
    "ToTensorV2": "batches are made of arrays: leave it out",
    "ToTensor3D": "batches are made of arrays: leave it out",
    "Lambda": "a recipe holds no code: name the transforms themselves",
}
"""Transforms that are never right here, and why."""
