"""DICOM headers and pixel decoding: the part that uses pydicom."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from pipeline.data.rasters.raster_reader import DAMAGED
from pipeline.errors import SceneError

# Extended (12 bit), Lossless, and Lossless with the first predictor, which is common in clinics.
_OTHER_JPEG: Final = ("1.2.840.10008.1.2.4.51", "1.2.840.10008.1.2.4.57", "1.2.840.10008.1.2.4.70")
_PLANES: Final = ("sagittal", "coronal", "axial")
_HINT: Final = "convert it, for instance with `dcmconv` or `gdcmconv --raw`"
# Beyond it a header is damaged; what is kept of each frame would exhaust memory.
_MAX_FRAMES: Final = 1_000_000
_IDENTITY: Final = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)


@dataclass(frozen=True)
class Header:
    """What concerns pixels in one file.

    Attributes:
        path: of the file.
        series: its UID.
        modality, photometric, syntax: in DICOM's words.
        rows, columns, samples, frames: size.
        dtype: of stored values.
        stored_range: lowest and highest value that the stored bits can hold.
        scales: slope and intercept of each frame.
        padding: stored values that mean: nothing was measured.
        positions: of each frame along the direction of the slices, in millimetres; () if not known.
        number: instance number.
        plane: the plane that slices are nearest to; empty if not known.
        transform: in millimetres; the identity if not known.
        palette: whether values are positions in a palette.
        palette_dtype: of its colours.
    """

    path: Path
    series: str
    modality: str
    photometric: str
    syntax: str
    rows: int
    columns: int
    samples: int
    frames: int
    dtype: str
    stored_range: tuple[int, int] | None
    scales: tuple[tuple[float, float], ...]
    padding: tuple[float, float] | None
    positions: tuple[float, ...]
    number: int | None
    plane: str
    transform: tuple[float, float, float, float, float, float]
    palette: bool
    palette_dtype: str

    @property
    def layout(self) -> tuple[Any, ...]:
        """What must be the same in all files of a series."""
        return self.rows, self.columns, self.samples, self.dtype, self.palette

    @property
    def described(self) -> str:
        """The same for people."""
        return f"{self.columns} × {self.rows}, {self.samples} × {self.dtype}"


def is_dicom(head: bytes) -> bool:
    """Whether a file begins as DICOM: with its preamble, or without one by the first element of group 2 or 8."""
    if head[128:132] == b"DICM":
        return True
    if head[:2] not in (b"\x02\0", b"\x08\0", b"\0\x08") or len(head) < 132:
        return False
    explicit = head[4:6].isalpha() and head[4:6].isupper()
    return explicit or int.from_bytes(head[4:8], "little") < 1024


def is_dicom_file(path: Path) -> bool:
    """Whether a file begins as DICOM."""
    with path.open("rb") as file:
        return is_dicom(file.read(512))


def read(uri: str, path: Path) -> Header:
    """Read everything but the pixels.

    Raises:
        SceneError: it has no pixels, or its values go through a lookup table.
    """
    data = _load(path)
    name = f"{uri}: {path.name}" if path.name not in uri else uri
    if "Rows" not in data or "Columns" not in data or "BitsAllocated" not in data:
        kind = str(data.get("Modality", "") or "DICOM")
        raise SceneError(f"{name}: no pixel data (it is {kind})", "name a file with an image")
    if "ModalityLUTSequence" in data:
        raise SceneError(f"{name}: its values go through a lookup table (Modality LUT Sequence)", _HINT)
    frames = int(data.get("NumberOfFrames", 1) or 1)
    if not 1 <= frames <= _MAX_FRAMES:
        raise SceneError(f"{name}: its header claims {frames} frames", DAMAGED)
    shared = _first(data, "SharedFunctionalGroupsSequence")
    each = list(data.get("PerFrameFunctionalGroupsSequence", []) or [])
    each = each if len(each) == frames else [None] * frames
    scales = tuple(_scale([group, shared, data]) for group in each)
    across, down = _directions([each[0], shared, data])
    positions = _positions(each, shared, data, across, down)
    dtype, stored_range = _stored(data)
    return Header(
        path=path,
        series=str(data.get("SeriesInstanceUID", "") or ""),
        modality=str(data.get("Modality", "") or "image"),
        photometric=str(data.get("PhotometricInterpretation", "") or ""),
        syntax=_syntax(data),
        rows=int(data.Rows),
        columns=int(data.Columns),
        samples=int(data.get("SamplesPerPixel", 1) or 1),
        frames=frames,
        dtype=dtype,
        stored_range=stored_range,
        scales=scales,
        padding=_padding(data),
        positions=positions,
        number=int(data.InstanceNumber) if data.get("InstanceNumber") is not None else None,
        plane=_PLANES[int(np.abs(np.cross(across, down)).argmax())] if across is not None else "",
        transform=_transform([each[0], shared, data], across, down),
        palette=data.get("PhotometricInterpretation") == "PALETTE COLOR",
        palette_dtype=_palette_dtype(data),
    )


def decode(uri: str, path: Path, index: int, *, colors: bool) -> NDArray[Any]:
    """Stored values [h, w] or [h, w, 3] of a frame; YBR becomes RGB.

    Args:
        uri: for messages.
        path: the file.
        index: number of the frame.
        colors: turn positions in a palette into its colours.

    Raises:
        SceneError: no installed library can decompress it, or its pixels are damaged.
    """
    from pydicom.pixels import apply_color_lut, pixel_array

    data = _load(path)
    try:
        with warnings.catch_warnings(action="ignore"):
            if data.file_meta.TransferSyntaxUID.is_deflated:
                pixels = pixel_array(_load(path, pixels=True), index=index)
            else:  # from the file, only this frame
                pixels = pixel_array(path, index=index, transfer_syntax_uid=data.file_meta.TransferSyntaxUID)
    except (RuntimeError, NotImplementedError) as error:
        other = _jpeg(path, index) if data.file_meta.TransferSyntaxUID in _OTHER_JPEG else None
        if other is None:
            text = " ".join(str(error).split())[:200]
            raise SceneError(f"{uri}: {path.name} is compressed as {_syntax(data)}, {text}", _HINT) from error
        pixels = other
    except AttributeError as error:
        raise SceneError(f"{uri}: {path.name} has no pixel data ({error})", "name a file with an image") from error
    return np.asarray(apply_color_lut(pixels, data) if colors else pixels)


def _jpeg(path: Path, index: int) -> NDArray[Any] | None:
    """A frame in a kind of JPEG that pydicom has no decoder for, by imagecodecs; None without that."""
    from pydicom.encaps import get_frame

    try:
        from imagecodecs import jpeg8_decode
    except ImportError:
        return None
    data = _load(path, pixels=True)
    frame = get_frame(data.PixelData, index, number_of_frames=int(data.get("NumberOfFrames", 1) or 1))
    # Of three components without a marker the decoder would think YCbCr.
    colors: Any = {"colorspace": "rgb", "outcolorspace": "rgb"} if data.PhotometricInterpretation == "RGB" else {}
    pixels: NDArray[Any] = jpeg8_decode(frame, **colors)
    if not data.get("PixelRepresentation", 0):
        return pixels
    unused = int(data.BitsAllocated) - int(data.BitsStored)
    signed = pixels.astype(f"uint{data.BitsAllocated}").view(f"int{data.BitsAllocated}")
    return np.asarray((signed << unused) >> unused)


def _load(path: Path, *, pixels: bool = False) -> Any:
    import pydicom
    from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

    with warnings.catch_warnings(action="ignore"):
        data = pydicom.dcmread(path, force=True, stop_before_pixels=not pixels)
    if "TransferSyntaxUID" not in data.file_meta:
        implicit, little = data.original_encoding
        known = ImplicitVRLittleEndian if implicit else ExplicitVRLittleEndian if little else ExplicitVRBigEndian
        data.file_meta.TransferSyntaxUID = known
    return data


def _syntax(data: Any) -> str:
    return str(data.file_meta.TransferSyntaxUID.name)


def _first(data: Any, name: str) -> Any:
    """The first item of a sequence, or None."""
    items = data.get(name) if data is not None else None
    return items[0] if items else None


def _found(groups: list[Any], sequence: str, name: str) -> Any:
    """An element of functional groups (in a sequence there) or of the file itself, the last of `groups`."""
    for group in groups[:-1]:
        item = _first(group, sequence)
        if item is not None and item.get(name) is not None:
            return item.get(name)
    return groups[-1].get(name)


def _scale(groups: list[Any]) -> tuple[float, float]:
    slope = _found(groups, "PixelValueTransformationSequence", "RescaleSlope")
    intercept = _found(groups, "PixelValueTransformationSequence", "RescaleIntercept")
    return (1.0 if slope is None else float(slope)), (0.0 if intercept is None else float(intercept))


def _vector(value: Any, length: int) -> NDArray[np.float64] | None:
    if value is None or len(value) != length:
        return None
    vector = np.asarray([float(v) for v in value])
    return vector if np.isfinite(vector).all() else None


def _directions(groups: list[Any]) -> tuple[Any, Any]:
    """Unit vectors in patient coordinates along a row and down a column; None if not known."""
    vector = _vector(_found(groups, "PlaneOrientationSequence", "ImageOrientationPatient"), 6)
    return (None, None) if vector is None else (vector[:3], vector[3:])


def _positions(each: list[Any], shared: Any, data: Any, across: Any, down: Any) -> tuple[float, ...]:
    if across is None:
        return ()
    normal = np.cross(across, down)
    normal = normal * np.sign(normal[np.abs(normal).argmax()])
    found = [_vector(_found([g, shared, data], "PlanePositionSequence", "ImagePositionPatient"), 3) for g in each]
    return () if any(f is None for f in found) else tuple(float(f @ normal) for f in found if f is not None)


def _transform(groups: list[Any], across: Any, down: Any) -> tuple[float, float, float, float, float, float]:
    spacing = _vector(_found(groups, "PixelMeasuresSequence", "PixelSpacing"), 2)
    if spacing is None:
        spacing = _vector(groups[-1].get("ImagerPixelSpacing"), 2)
    if spacing is None or not (spacing > 0).all():
        return _IDENTITY
    rows, cols = float(spacing[0]), float(spacing[1])
    corner = _vector(_found(groups, "PlanePositionSequence", "ImagePositionPatient"), 3)
    if corner is None or across is None:
        return cols, 0.0, 0.0, 0.0, rows, 0.0
    return cols, 0.0, float(corner @ across) - cols / 2, 0.0, rows, float(corner @ down) - rows / 2


def _stored(data: Any) -> tuple[str, tuple[int, int] | None]:
    """Type of stored values and what their bits can hold."""
    allocated = int(data.BitsAllocated)
    if allocated in (32, 64) and "PixelRepresentation" not in data:  # Float Pixel Data, and Double Float
        return f"float{allocated}", None
    signed = bool(data.get("PixelRepresentation", 0))
    bits = int(data.get("BitsStored", allocated) or allocated)
    if allocated not in (1, 8, 16, 32, 64) or not 1 <= bits <= allocated:
        raise ValueError(f"{bits} of {allocated} bits are stored")
    dtype = f"{'int' if signed else 'uint'}{max(8, allocated)}"
    return dtype, ((-(1 << (bits - 1)), (1 << (bits - 1)) - 1) if signed else (0, (1 << bits) - 1))


def _padding(data: Any) -> tuple[float, float] | None:
    value = data.get("PixelPaddingValue")
    if value is None:
        return None
    other = data.get("PixelPaddingRangeLimit")
    ends = sorted((float(value), float(value if other is None else other)))
    return ends[0], ends[1]


def _palette_dtype(data: Any) -> str:
    descriptor = data.get("RedPaletteColorLookupTableDescriptor")
    return "uint8" if descriptor is None or int(descriptor[2]) == 8 else "uint16"
