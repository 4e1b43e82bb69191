"""NetCDF, HDF5, GRIB and NITF that came to harm: read or refused by a process that lives, as in `test_damaged`."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
from rasterio.shutil import copy

from tests.data.rasters.formats.test_damaged import look
from tests.data.rasters.formats.test_grib import grib1, grib2
from tests.data.rasters.formats.test_netcdf import world
from tests.data.rasters.formats.test_netcdf import write as netcdf
from tests.factory import make_pixels, write_raster


def arrays_of_many(folder: Path) -> list[Path]:
    """Whole files of the formats that hold several arrays."""
    netcdf(folder / "a.nc", world())
    grib2(folder, "JPEG2000").rename(folder / "b.grb")
    grib2(folder, "COMPLEX_PACKING").rename(folder / "c.grb")
    (folder / "d.grb").write_bytes(grib1(np.zeros((20, 30), np.uint8)))
    with h5py.File(folder / "e.h5", "w") as file:
        file.create_dataset("image", data=make_pixels(3, 60, 70, "uint16"), chunks=(1, 32, 32), compression="gzip")
    with h5py.File(folder / "f.h5", "w") as file:
        file["image"] = make_pixels(3, 60, 70, "uint16")
    one = write_raster(folder / "one.tif", make_pixels(1, 60, 70, "uint8"))
    copy(one, folder / "g.nc", driver="netCDF", format="NC4", compress="DEFLATE")
    copy(folder / "a.tif", folder / "h.ntf", driver="NITF")
    return [folder / name for name in ("a.nc", "b.grb", "c.grb", "d.grb", "e.h5", "f.h5", "g.nc", "h.ntf")]


def test_damaged_files_of_many_arrays(tmp_path):
    """Cut off anywhere, or with wrong bytes anywhere: an error, or what is left; never a hang or a crash."""
    rng = np.random.default_rng(3)
    whole, damaged = arrays_of_many(tmp_path), []
    for path in whole:
        data = path.read_bytes()
        for number in range(20):
            broken = bytearray(data)
            if number < 6:
                del broken[int(len(data) * rng.random()) :]
            for at in rng.integers(0, max(1, min(len(broken), 4000 if number % 2 else len(broken))), 6):
                broken[min(at, len(broken) - 1)] = rng.choice([0, 255, rng.integers(256)]) if broken else 0
            damaged.append(tmp_path / f"{number}-{path.name}")
            damaged[-1].write_bytes(bytes(broken) or b"x")
    said = look([*whole, *damaged])
    assert all(set(said[str(path)]) <= {"label"} for path in whole)
    cut = [path for path in damaged if int(path.name.partition("-")[0]) < 6]
    assert sum(bool(said[str(path)]) for path in cut) > len(cut) // 2
