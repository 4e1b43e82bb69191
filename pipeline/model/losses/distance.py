"""Losses of distances: how far a prediction's edges are from the true ones, in pixels.

Distances are exact and Euclidean, between centres of pixels, and made on the CPU from the masks; masks on another
device are copied there and back. IGNORE is neither inside nor outside, so its rim is no edge.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.data.labels.classes import IGNORE
from pipeline.model.losses.evidence import Evidence
from pipeline.model.losses.means import MeanTerm


@dataclass(frozen=True)
class BoundaryTerm(MeanTerm):
    """Boundary loss (Kervadec et al. 2019): probability times signed distance; sums are that and the weights.

    The distance is negative inside. It is below zero for a good prediction.
    """

    class_weights: tuple[float, ...] | None = None

    def sums(self, evidence: Evidence) -> Tensor:
        """See `Term.sums`."""
        signed = _signed_distance(evidence.truth > 0, evidence.channels_valid).to(evidence.dtype)
        # A pixel of the class next to one that is not is on the edge, and has 0; its neighbour has 1.
        signed = torch.where(signed < 0, signed + 1, signed)
        return _weighted(evidence.p * signed, evidence, self.class_weights)


@dataclass(frozen=True)
class HausdorffTerm(MeanTerm):
    """Hausdorff loss by distance transforms (Karimi & Salcudean 2019); sums are the weighted errors and the weights.

    Squared error times the sum of the distances, to the power alpha, from the edges of truth and of prediction.
    """

    alpha: float = 2.0
    class_weights: tuple[float, ...] | None = None

    def sums(self, evidence: Evidence) -> Tensor:
        """See `Term.sums`."""
        known = evidence.channels_valid
        far = torch.zeros_like(evidence.p)
        for region in (evidence.truth > 0, (evidence.p.detach() > 0.5) & known):
            far += _signed_distance(region, known).abs_().to(evidence.dtype).pow_(self.alpha)
        return _weighted((evidence.p - evidence.truth).square() * far, evidence, self.class_weights)


def _weighted(values: Tensor, evidence: Evidence, class_weights: tuple[float, ...] | None) -> Tensor:
    """Sums [2] over pixels and classes of `values` [N,K,H,W] by their weights, and of the weights."""
    v = evidence.channels_known
    factors = values.new_tensor((1.0,) * evidence.classes if class_weights is None else class_weights)[:, None, None]
    return torch.stack([(values * v * factors).sum(), (v * factors).sum()])


def _signed_distance(region: Tensor, known: Tensor) -> Tensor:
    """Distance float32 [N,K,H,W] from the region and, below zero, of what is in it from what is known not to be.

    All 0 where a chip has no edge.

    Args:
        region: bool [N,K,H,W].
        known: bool [N,K,H,W] or [N,1,H,W].
    """
    inner = region.cpu().numpy()
    other = (known.expand_as(region) & ~region).cpu().numpy()
    out = np.zeros(inner.shape, np.float32)
    for at in np.ndindex(inner.shape[:2]):
        if inner[at].any() and other[at].any():
            out[at] = np.where(inner[at], -_distance_to(other[at]), _distance_to(inner[at]))
    return torch.from_numpy(out).to(region.device)


def distance_to_edges(mask: Tensor) -> Tensor:
    """Distance float32 from the nearest pixel with a neighbour (of four) of another valid id; infinite where none is.

    Args:
        mask: ids and IGNORE, integers [..., H, W].
    """
    ids = mask.cpu().numpy()
    out = np.full(ids.shape, np.inf, np.float32)
    for at in np.ndindex(ids.shape[:-2]):
        edge = np.zeros(ids.shape[-2:], bool)
        for one, next_ in (((slice(None, -1),), (slice(1, None),)), ((..., slice(None, -1)), (..., slice(1, None)))):
            a, b = ids[at][one], ids[at][next_]
            differs = (a != b) & (a != IGNORE) & (b != IGNORE)
            edge[one] |= differs
            edge[next_] |= differs
        if edge.any():
            out[at] = _distance_to(edge)
    return torch.from_numpy(out).to(mask.device)


def _distance_to(there: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Exact distance from the nearest pixel of `there`, of which there is one, by Felzenszwalb and Huttenlocher."""
    import cv2  # a sixth of the time of scipy's, to 1e-6; here, because few losses need it

    image = np.ascontiguousarray(~there).view(np.uint8)
    return np.asarray(cv2.distanceTransform(image, cv2.DIST_L2, cv2.DIST_MASK_PRECISE), np.float32)
