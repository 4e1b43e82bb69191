"""The commands of `segpipe models`: list, show, export."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from typing import Final

from pipeline.cli.command import Command, Result


def _list_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--architecture", metavar="X", help="ask this one only")
    parser.add_argument("--encoder", metavar="PATTERN", help="a name, or a pattern in quotes such as 'convnext*'")
    parser.add_argument("--max-params", type=float, metavar="N", help="leave out those with more weights, as 30e6")


def _list(options: Namespace) -> Result:
    from pipeline.model import catalogue, catalogue_text  # torch takes seconds to import

    if options.architecture is None and options.encoder is None and options.max_params is None:
        overview = catalogue.overview()
        return overview.to_json(), catalogue_text.overview(overview), 0
    found = catalogue.listing(options.architecture, options.encoder or "*", max_parameters=options.max_params)
    return found.to_json(), catalogue_text.listing(found), 0


def _show_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("architecture")
    parser.add_argument("encoder", nargs="?", help="by default the architecture's own")
    parser.add_argument("overrides", nargs="*", metavar="a=b", help="other fields of its section in a recipe")
    for name, default, text in (
        ("size", 512, "height and width of the images in pixels"),
        ("batch", 1, "number of images"),
        ("bands", 3, "channels in"),
        ("classes", 2, "channels out"),
    ):
        parser.add_argument(f"--{name}", type=int, default=default, help=f"{text}; by default {default}")
    parser.add_argument("--picture", metavar="FILE", help="draw the stages into an .svg, .png or .pdf")


def _show(options: Namespace) -> Result:
    from pipeline.model import catalogue, catalogue_text

    encoder, overrides = options.encoder, options.overrides
    if encoder and "=" in encoder:  # the architecture's own encoder
        encoder, overrides = None, [encoder, *overrides]
    counts = {name: getattr(options, name) for name in ("bands", "classes", "size", "batch")}
    shown = catalogue.show(options.architecture, encoder, overrides, **counts)
    if options.picture:
        from pipeline.model import catalogue_picture

        catalogue_picture.draw(options.picture, shown.title, shown.cost.nodes)
    return shown.to_json(), catalogue_text.show(shown), 0


def _export_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("model", help="directory or URI of a bundle or saved network")
    parser.add_argument("file", help="NAME.onnx or NAME.pt2")
    parser.add_argument("--size", type=int, nargs=2, metavar=("H", "W"), help="take one image of this size only")


def _export(options: Namespace) -> Result:
    from pipeline.model import export
    from pipeline.registry.open_uri import load_model

    size = tuple(options.size) if options.size else None
    export.export(load_model(options.model), options.file, size=size, dynamic=size is None)
    return {"file": options.file}, options.file, 0


MODELS: Final = (
    Command("list", "architectures and encoders, and which fit together", _list_arguments, _list),
    Command("show", "stages of a network, its weights, FLOPs and memory", _show_arguments, _show),
    Command("export", "write a model as ONNX or pt2, and compare", _export_arguments, _export),
)
