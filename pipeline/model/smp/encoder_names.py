"""Names of layers of SMP's native encoders, from those of timm's models."""

from __future__ import annotations

import re
from typing import Final

# Beginning of SMP's encoder name -> names of our layers there (without `steps.N.`) and SMP's, in order.
_TABLES: Final[dict[str, tuple[tuple[str, str], ...]]] = {
    "efficientnet-": (
        (r"conv_stem\.", "_conv_stem."),
        (r"bn1\.", "_bn0."),
        (r"separable\.(\d+)\.bn([12])\.", r"_blocks.\1._bn\2."),
        (r"separable\.(\d+)\.conv_pw\.", r"_blocks.\1._project_conv."),
        (r"blocks\.(\d+)\.conv_pw\.", r"_blocks.\1._expand_conv."),
        (r"blocks\.(\d+)\.bn1\.", r"_blocks.\1._bn0."),
        (r"blocks\.(\d+)\.bn2\.", r"_blocks.\1._bn1."),
        (r"blocks\.(\d+)\.bn3\.", r"_blocks.\1._bn2."),
        (r"blocks\.(\d+)\.conv_pwl\.", r"_blocks.\1._project_conv."),
        (r"(?:separable|blocks)\.(\d+)\.conv_dw\.", r"_blocks.\1._depthwise_conv."),
        (r"(?:separable|blocks)\.(\d+)\.se\.conv_(reduce|expand)\.", r"_blocks.\1._se_\2."),
    ),
    "mobilenet_v2": (
        (r"conv_stem\.", "features.0.0."),
        (r"bn1\.", "features.0.1."),
        (r"conv_head\.", "features.18.0."),
        (r"bn2\.", "features.18.1."),
        (r"separable\.(\d+)\.conv_dw\.", r"features.\1.conv.0.0."),
        (r"separable\.(\d+)\.bn1\.", r"features.\1.conv.0.1."),
        (r"separable\.(\d+)\.conv_pw\.", r"features.\1.conv.1."),
        (r"separable\.(\d+)\.bn2\.", r"features.\1.conv.2."),
        (r"blocks\.(\d+)\.conv_pw\.", r"features.\1.conv.0.0."),
        (r"blocks\.(\d+)\.bn1\.", r"features.\1.conv.0.1."),
        (r"blocks\.(\d+)\.conv_dw\.", r"features.\1.conv.1.0."),
        (r"blocks\.(\d+)\.bn2\.", r"features.\1.conv.1.1."),
        (r"blocks\.(\d+)\.conv_pwl\.", r"features.\1.conv.2."),
        (r"blocks\.(\d+)\.bn3\.", r"features.\1.conv.3."),
    ),
    "mobileone_": (
        (r"(.*)\.conv_kxk\.", r"\1.rbr_conv."),
        (r"(.*)\.conv_scale\.", r"\1.rbr_scale."),
        (r"(.*)\.identity\.", r"\1.rbr_skip."),
        (r"(.*)\.attn\.fc1\.", r"\1.se.reduce."),
        (r"(.*)\.attn\.fc2\.", r"\1.se.expand."),
    ),
    "mit_": (
        (r"patch_embed\.", "patch_embed1."),
        (r"stage(\d)\.downsample\.", r"patch_embed\1."),
        (r"stage(\d)\.norm\.", r"norm\1."),
        (r"stage(\d)\.blocks(\.\d+\.mlp)\.dwconv\.", r"block\1\2.dwconv.dwconv."),
        (r"stage(\d)\.blocks\.", r"block\1."),
    ),
}


def smp_key(encoder: str, key: str) -> str:
    """SMP's key of a tensor of its encoder (without `encoder.`) from ours (without `steps.N.`)."""
    for pattern, replacement in next((rows for start, rows in _TABLES.items() if encoder.startswith(start)), ()):
        renamed, times = re.subn(f"^{pattern}", replacement, key)
        if times:
            return renamed
    return key
