"""The doctor on small made sets: does it find the planted fault, and what does it say where there is none?

    python -m bench.doctor                          # ten faults, each with a set that looks like it and has none
    python -m bench.doctor --data DIR [DIR ...]     # and folders with images/, labels/ or masks/ and splits.csv
    python -m bench.doctor RECIPE ...               # and recipes

A hit is the expected finding in the set with the fault; a false alarm is the same finding, as an error or a warning, in
the set without. Other errors and warnings are listed: each is to be judged by looking.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np

from bench import doctor_worlds as made
from pipeline import config
from pipeline.data import doctor
from pipeline.data.doctor.findings import Audit
from pipeline.recipe import Recipe, load

Make = Callable[[Path, bool], None]


def shift(folder: Path, faulty: bool) -> None:
    made.make(folder, made.buildings, label=lambda m, _: np.roll(m, (4, -3), (0, 1)) if faulty else _wide(m))


def road_shift(folder: Path, faulty: bool) -> None:
    def label(mask: made.Mask, number: int) -> made.Mask:
        off = (5, -5) if faulty else np.random.default_rng(number).integers(-2, 3, 2)
        return np.roll(mask if faulty else _wide(mask), tuple(map(int, off)), (0, 1))

    made.make(folder, made.roads, label=label)


def near_duplicate(folder: Path, faulty: bool) -> None:
    made.make(folder, made.retinas, scenes=20)
    if faulty:  # s03, s07 and s11 test; copies of what trains: another compression, brightness, a crop
        for target, source in ((3, 4), (7, 8), (11, 12)):
            image, mask = made.retinas(source)
            pixels = made.as_bytes(image)
            if target == 3:
                _, stored = cv2.imencode(".jpg", np.moveaxis(pixels, 0, -1), [cv2.IMWRITE_JPEG_QUALITY, 60])
                pixels = np.moveaxis(cv2.imdecode(stored, cv2.IMREAD_COLOR), -1, 0)
            elif target == 7:
                pixels = made.as_bytes(image * 0.75 + 10)
            else:
                pixels, mask = pixels[:, 3:-3, 3:-3], mask[3:-3, 3:-3]
            made.write(folder / f"images/s{target:02}.tif", pixels, target)
            made.write(folder / f"labels/s{target:02}.tif", mask, target)


def class_map(folder: Path, faulty: bool) -> None:
    def scene(number: int) -> tuple[np.ndarray, made.Mask]:
        image, mask = made.buildings(number)
        rng = np.random.default_rng(number)
        wrong = rng.random(mask.shape) < 0.12
        extra = np.where(wrong, 1 - mask, mask) if faulty else 150 * mask + rng.normal(50, 15, mask.shape)
        return np.concatenate([made.as_bytes(image), extra.clip(0, 255).astype(np.uint8)[None]]), mask

    made.make(folder, scene)


def sentinel(folder: Path, faulty: bool) -> None:
    def scene(number: int) -> tuple[np.ndarray, made.Mask]:
        image, mask = made.buildings(number)
        pixels = image.round().clip(-200, 250).astype(np.int16)
        if faulty and number == 5:
            pixels[1, :12] = -9999
        return pixels, mask

    made.make(folder, scene)


def rim(folder: Path, faulty: bool) -> None:
    def scene(number: int) -> tuple[np.ndarray, made.Mask]:
        image, mask = made.buildings(number)
        pixels = made.as_bytes(image if faulty else image - 90)  # dark ground without a frame
        if faulty:
            pixels[:, :8], pixels[:, -8:], pixels[:, :, :8], pixels[:, :, -8:] = 255, 255, 255, 255
        return pixels, mask

    made.make(folder, scene)


def alpha(folder: Path, faulty: bool) -> None:
    made.make(folder, made.buildings)
    for number in range(12):
        image, _ = made.buildings(number, bands=4)
        pixels = made.as_bytes(image)
        if not faulty:
            pixels[3] = 255
        made.write(folder / f"images/s{number:02}.tif", pixels, number, alpha=True)


def stems(folder: Path, faulty: bool) -> None:
    made.make(folder, made.buildings)
    for file in sorted((folder / "labels").iterdir()):
        if faulty:
            file.rename(file.with_name(f"gt-{file.stem[1:]}.tif"))


def leak(folder: Path, faulty: bool) -> None:
    made.make(folder, made.buildings)
    if faulty:
        for kind in ("images", "labels"):
            (folder / f"{kind}/s03.tif").write_bytes((folder / f"{kind}/s04.tif").read_bytes())


def ignored(folder: Path, faulty: bool) -> None:
    made.make(folder, made.buildings, label=lambda m, n: m * 0 + 255 if faulty and n in (2, 5) else m)


def dangling(folder: Path, faulty: bool) -> None:
    made.make(folder, made.buildings)
    if faulty:
        for file in (folder / "images/s02.tif", folder / "labels/s02.tif"):
            file.unlink()
            file.symlink_to("../.git/annex/objects/a/b/SHA256E-s9--ab/SHA256E-s9--ab")


WORLDS: dict[str, tuple[Make, set[str]]] = {
    "shift of all labels (buildings)": (shift, {"shifted_labels"}),
    "shift of all labels (roads)": (road_shift, {"shifted_labels"}),
    "near duplicates among look-alikes": (near_duplicate, {"near_duplicates"}),
    "class map among the bands": (class_map, {"leaking_band"}),
    "sentinel in one band of one scene": (sentinel, {"undeclared_nodata"}),
    "white rim": (rim, {"image_rim", "undeclared_nodata"}),
    "near infrared tagged alpha": (alpha, {"alpha_of_many_values"}),
    "other stems of labels": (stems, {"scenes"}),
    "one image in two splits": (leak, {"shared_content", "shared_ground"}),
    "two labels all ignored": (ignored, {"unannotated_scenes"}),
    "dangling links": (dangling, {"not_fetched"}),
}


def _wide(mask: made.Mask) -> made.Mask:
    return cv2.dilate(mask, np.ones((5, 5), np.uint8))


def recipe(folder: Path) -> Recipe:
    """For a made set, or a folder of the same layout with two classes 0 and 1, or 0 and 255."""
    labels = "masks" if (folder / "masks").is_dir() else "labels"
    data = {
        "root": str(folder),
        "images": "images/*",
        "labels": f"{labels}/{{id}}.*",
        "classes": [{"name": "ground", "values": [0]}, {"name": "thing", "values": [1]}],
        "ignore_values": [255],
        "split": {"kind": "table"},
        "sampling": {"size": 64},
    }
    return config.validate(Recipe, {"name": "made", "data": data, "compute": {"output": str(folder / "runs")}})


def alarms(found: Audit) -> list[str]:
    """Kinds of errors and warnings; a shift that is only worth a look has its severity."""
    return sorted({f.kind for f in found.findings if f.severity in ("error", "warning") and f.kind != "slow_storage"})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipes", nargs="*", help="recipes to run as well")
    parser.add_argument("--data", nargs="*", default=[], help="folders to run as well")
    given = parser.parse_args()
    print("| set | planted fault found | false alarm without it | other errors and warnings (with / without) |")
    print("|---|---|---|---|")
    for name, (make, expected) in WORLDS.items():
        said = {}
        for faulty in (True, False):
            with tempfile.TemporaryDirectory() as folder:
                make(Path(folder), faulty)
                said[faulty] = alarms(doctor.examine(recipe(Path(folder)), f"{folder}/report"))
        others = (
            ", ".join(kind for kind in said[faulty] if kind not in expected) or "none" for faulty in (True, False)
        )
        hit, alarm = ("yes" if expected & set(said[faulty]) else "no" for faulty in (True, False))
        print(f"| {name} | {hit} | {alarm} | {' / '.join(others)} |", flush=True)
    for source in [*given.data, *given.recipes]:
        with tempfile.TemporaryDirectory() as out:
            path = Path(source)
            found = doctor.examine(recipe(path) if path.is_dir() else load(source), out)
        print(f"| {path.name} ({len(found.scenes)} scenes) | | | {json.dumps(alarms(found))} |", flush=True)
        for f in found.findings:
            print(f"  {f.severity}: {f.kind}: {f.what[:160]}")


if __name__ == "__main__":
    main()
