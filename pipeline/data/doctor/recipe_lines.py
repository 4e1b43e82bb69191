"""Lines of a recipe that findings recommend."""

from __future__ import annotations

from collections.abc import Collection

from pipeline.data.doctor.gather import Gathered


def without_bands(seen: Gathered, positions: Collection[int]) -> str:
    """The lines that leave bands out, by their positions (from 0) among those that are read; files stay as they are.

    Empty where the recipe names a file for each band, of which one is then taken away.
    """
    if seen.recipe.data.bands_apart is not None:
        return ""
    chosen = getattr(seen.recipe.data.reading, "bands", None) or range(1, len(seen.bands) + 1)
    kept = [str(band) for position, band in enumerate(chosen) if position not in positions]
    return f"data:\n  reading: {{bands: [{', '.join(kept)}]}}" if kept else ""
