"""Confusion matrices from logits or class ids, fast."""

from __future__ import annotations

import math
from collections.abc import Sequence
from difflib import get_close_matches
from typing import Final, Literal, get_args

import torch
from torch import Tensor
from torch.nn import functional

from pipeline.data.labels.classes import IGNORE

Task = Literal["multiclass", "binary", "multilabel"]

_MOST_CLASSES: Final = IGNORE
_SIGNED: Final = {torch.uint16: torch.int32, torch.uint32: torch.int64, torch.uint64: torch.int64}
_WHOLE_PIXELS: Final = 1 << 18  # the maximum of all pixels and its class still fit a core's share of the cache
_BLOCK_PIXELS: Final = 1 << 15  # as above, in addition to a copy of all classes


def predict_classes(logits: Tensor) -> Tensor:
    """Class ids uint8 [N,H,W] of the largest logit [N,K,H,W]; of equal ones the lowest id.

    torch's argmax walks the strided class axis pixel by pixel; here it is many times faster on a CPU, in any memory
    layout. Logits are finite or infinite, not NaN; their gradient is not followed.
    """
    logits = logits.detach()
    if logits.device.type != "cpu" or not logits.is_floating_point():
        return logits.argmax(1).to(torch.uint8)
    images, _, height, width = logits.shape
    out = torch.empty(images, height, width, dtype=torch.uint8)
    pixels = max(height * width, 1)
    if pixels <= _WHOLE_PIXELS and logits.is_contiguous():
        step = torch.get_num_threads() * _WHOLE_PIXELS // pixels
        for first in range(0, images if out.numel() else 0, step):
            out[first : first + step] = _largest(logits[first : first + step])
        return out
    rows = max(1, _BLOCK_PIXELS // max(width, 1))
    for image in range(images):
        for top in range(0, height if width else 0, rows):
            block = logits[image : image + 1, :, top : top + rows]
            out[image, top : top + rows] = _largest(block.contiguous())[0]
    return out


def _largest(block: Tensor) -> Tensor:
    """Class ids int64 [n,h,w] of the largest of `block` [n,K,h,w], which is contiguous.

    The one maximum over a strided axis that torch computes with vector instructions and together with its index is
    pooling in channels_last: so the pixels pose as its channels, and the classes as the height of its window.
    """
    images, classes, height, width = block.shape
    pixels_as_channels = block.view(images, classes, 1, height * width).permute(0, 3, 1, 2)
    _, ids = functional.max_pool2d_with_indices(pixels_as_channels, (classes, 1))
    return ids.view(images, height, width)


def confusion(prediction: Tensor, mask: Tensor, num_classes: int) -> Tensor:
    """Counts int64 [K,K], rows the truth, columns the prediction.

    Args:
        prediction: class ids [N,H,W] or [H,W]; pixels with IGNORE (nothing was measured) are left out.
        mask: class ids of the same shape; pixels with IGNORE are left out.
        num_classes: K, at most 255.

    Raises:
        ValueError: an id that is neither a class nor IGNORE, or shapes that differ.
    """
    if prediction.shape != mask.shape:
        raise ValueError(f"prediction {tuple(prediction.shape)} and mask {tuple(mask.shape)} differ in shape")
    return _tables(prediction.reshape(1, -1), mask.reshape(1, -1), num_classes)[0]


def confusion_of_logits(logits: Tensor, mask: Tensor) -> Tensor:
    """`confusion` of the classes with the largest logit.

    Args:
        logits: [N,K,H,W] of a floating dtype, K at most 255.
        mask: class ids [N,H,W]; pixels with IGNORE are left out.

    Raises:
        ValueError: an id that is neither a class nor IGNORE, or shapes that do not belong together.
    """
    if logits.dim() != 4 or mask.shape != (len(logits), *logits.shape[2:]):
        raise ValueError(
            f"logits {tuple(logits.shape)} and mask {tuple(mask.shape)} are not [N,K,H,W] and [N,H,W] of the same size"
        )
    return confusion(predict_classes(logits), mask, logits.shape[1])


def _tables(prediction: Tensor, mask: Tensor, num_classes: int) -> Tensor:
    """Confusion int64 [N,K,K] of each row of class ids [N,P]."""
    if not 1 <= num_classes <= _MOST_CLASSES:
        raise ValueError(f"num_classes: {num_classes} is not in 1..{_MOST_CLASSES}")
    guesses, truths = _as_bytes(prediction, "prediction"), _as_bytes(mask, "mask")
    # In each direction a bin for IGNORE, one for every class and one for all wrong ids: they cost no pass of their own.
    measured = _pairs(guesses, truths, num_classes + 2)[:, 1:, 1:]
    inside = measured[:, :-1, :-1]
    if int(measured.sum() - inside.sum()):
        raise ValueError(_wrong_ids(prediction, mask, num_classes))
    return inside.clone()


def _pairs(prediction: Tensor, mask: Tensor, side: int) -> Tensor:
    """Pairs of bytes [N,P] counted per image, int64 [N,side,side]; side - 1 stands for all bytes above it.

    Few large operations on the smallest type that holds them: each is a meeting of all threads, or of the device.
    """
    images, bins = len(mask), side * side
    # A byte raised by one starts again at 0, where IGNORE comes to lie.
    codes = _smallest(bins, (mask + 1).clamp_(max=side - 1)).mul_(side).add_((prediction + 1).clamp_(max=side - 1))
    if images > 1:
        codes = _smallest(images * bins, codes)
        codes += torch.arange(0, images * bins, bins, device=mask.device).to(codes.dtype)[:, None]
    return torch.bincount(codes.flatten(), minlength=images * bins).view(images, side, side)


def _smallest(limit: int, numbers: Tensor) -> Tensor:
    """In the smallest type that holds 0..limit-1, if it is larger."""
    for dtype, size in ((torch.uint8, 8), (torch.int16, 15), (torch.int32, 31)):
        if limit <= 1 << size:
            return numbers.to(dtype)
    return numbers.long()


def signed(ids: Tensor) -> Tensor:
    """Integers of any dtype in one that torch computes with: it compares and adds no uint16, uint32 or uint64.

    A uint64 value beyond int64 becomes negative, which no class id is.
    """
    return ids.to(_SIGNED.get(ids.dtype, ids.dtype))


def _as_bytes(ids: Tensor, name: str) -> Tensor:
    if ids.dtype == torch.bool:
        return ids.to(torch.uint8)
    if ids.dtype == torch.uint8:
        return ids
    if ids.is_floating_point() or ids.is_complex():
        raise ValueError(f"{name}: {ids.dtype} instead of class ids of an integer dtype")
    ids = signed(ids)
    if ids.numel():
        low, high = torch.stack(torch.aminmax(ids)).tolist()
        if low < 0 or high > IGNORE:
            raise ValueError(f"{name}: class id {low if low < 0 else high}; pixels that do not count hold {IGNORE}")
    return ids.to(torch.uint8)


def _wrong_ids(prediction: Tensor, mask: Tensor, num_classes: int) -> str:
    found = []
    for name, ids in (("prediction", prediction), ("mask", mask)):
        wrong = [k for k in torch.unique(ids).tolist() if k >= num_classes and k != IGNORE]
        found += [f"{name} holds {', '.join(map(str, wrong))}"] if wrong else []
    return f"a class id that is neither below {num_classes} nor {IGNORE}: {'; '.join(found)}"


def tabulate(
    prediction: Tensor, mask: Tensor, num_classes: int | None, *, task: Task = "multiclass", threshold: float = 0.5
) -> Tensor:
    """Count confusions: per image [N,K,K]; for other tasks per image and class [N,K,2,2]."""
    check_task(task, threshold)
    if task == "multiclass":
        classes = _multiclass_shape(prediction, mask, num_classes)
        ids = predict_classes(prediction) if prediction.is_floating_point() else prediction
        return _tables(ids.flatten(1), mask.flatten(1), classes)
    if task == "binary":
        prediction, mask = (part[:, None] if part.dim() == 3 else part for part in (prediction, mask))
    classes = _planes_shape(prediction, mask, 1 if task == "binary" else num_classes)
    ids = _above(prediction.detach(), threshold) if prediction.is_floating_point() else prediction
    pixels = mask.shape[2] * mask.shape[3]
    tables = _tables(ids.reshape(-1, pixels), mask.reshape(-1, pixels), 2)
    return tables.view(len(mask), classes, 2, 2)


def check_task(task: str, threshold: float) -> None:
    """Raise a ValueError for an unknown task, or a threshold that is no probability between 0 and 1."""
    if task not in get_args(Task):
        raise ValueError(f"task: {task!r} is unknown{nearest(task, get_args(Task))}")
    if not 0 < threshold < 1:
        raise ValueError(f"threshold: {threshold} is not a probability between 0 and 1")


def nearest(name: str, known: Sequence[str]) -> str:
    """The end of a message about an unknown name: the nearest known one, or all."""
    near = get_close_matches(name, known, 1, 0.5)
    return f"; did you mean {near[0]!r}?" if near else f"; known are {', '.join(known)}"


def _above(logits: Tensor, threshold: float) -> Tensor:
    cut = math.log(threshold / (1 - threshold))
    # Half precisions would round the cut to their own few digits.
    return (logits.float() if cut and logits.element_size() < 4 else logits) > cut


def _multiclass_shape(prediction: Tensor, mask: Tensor, num_classes: int | None) -> int:
    logits = prediction.is_floating_point()
    shape = (*prediction.shape[:1], *prediction.shape[2:]) if logits else tuple(prediction.shape)
    if prediction.dim() != (4 if logits else 3) or tuple(mask.shape) != shape:
        raise ValueError(
            f"multiclass: {'logits' if logits else 'class ids'} {tuple(prediction.shape)} and mask {tuple(mask.shape)} "
            f"are not {'[N,K,H,W]' if logits else '[N,H,W]'} and [N,H,W] of the same size"
        )
    found = prediction.shape[1] if logits else num_classes
    if found is None:
        raise ValueError("multiclass: num_classes is needed to count class ids")
    if num_classes not in (None, found):
        raise ValueError(f"multiclass: logits of {found} classes instead of {num_classes}")
    return found


def _planes_shape(prediction: Tensor, mask: Tensor, num_classes: int | None) -> int:
    if prediction.dim() != 4 or prediction.shape != mask.shape:
        raise ValueError(
            f"prediction {tuple(prediction.shape)} and mask {tuple(mask.shape)} are not of one shape "
            "(multilabel: [N,K,H,W]; binary: [N,H,W] or [N,1,H,W])"
        )
    if num_classes not in (None, prediction.shape[1]):
        raise ValueError(f"{prediction.shape[1]} classes instead of {num_classes}")
    return prediction.shape[1]
