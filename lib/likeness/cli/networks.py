"""`likeness backbones`, `classify`, `profile`, `weights`: networks, their predictions and their speed.   [typer]"""

import operator
import sys
from pathlib import Path
from typing import Annotated

import typer

from likeness.cli.common import AsJson, Assignments, Config, load, read_photo, show_json, show_result, show_table
from likeness.core.errors import UsageError
from likeness.core.settings import load_settings
from likeness.images.image import BadImage
from likeness.models.backbones import Backbone, registry

backbones = typer.Typer(help="List the networks, or show the layers of one.", invoke_without_command=True)
weights = typer.Typer(help="Convert files of weights.", no_args_is_help=True)


@backbones.callback()
def list_backbones(context: typer.Context, as_json: AsJson = False) -> None:
    """List the networks; `show NAME` has all layers of one."""
    if context.invoked_subcommand:
        return
    rows = [_fields(spec) for spec in registry().values()]
    if as_json:
        show_json(rows)
        return
    columns = ("name", "side", "top-1", "top-5", "weights", "what")
    show_table(columns, map(operator.itemgetter(*columns), rows))
    print("top-1, top-5: published accuracy on ImageNet's validation set, %; layers: `likeness backbones show NAME`")


def _fields(spec: Backbone) -> dict[str, str | int | float | list[str] | None]:
    published = spec.published
    return {
        "name": spec.name,
        "side": spec.preprocessing.crop,
        "top-1": published.top1 if published else None,
        "top-5": published.top5 if published else None,
        "weights": spec.source,
        "what": spec.doc,
        "licence": spec.licence,
        "layers": list(spec.layers),
    }


@backbones.command("show")
def show(
    name: Annotated[str, typer.Argument(help="a name that `likeness backbones` lists")], as_json: AsJson = False
) -> None:
    """Show every layer of a network.

    Output shape, receptive field, stride, parameters and cost.
    """
    spec = registry().get(name)
    if spec is None:
        raise UsageError(f"{name!r}: no such network; the networks are: {', '.join(registry())}")
    from likeness.models.backbones.summary import summarise

    rows = summarise(spec)
    totals = {"parameters": sum(row.parameters for row in rows), "macs": sum(row.macs for row in rows)}
    if as_json:
        show_json({**_fields(spec), **totals, "stages": rows})
        return
    columns = ("layer", "output", "receptive field", "stride", "parameters", "million MACs", "kB out", "")
    cells = [
        (
            row.layer,
            " x ".join(map(str, row.shape)),
            row.field,
            row.stride if len(row.shape) > 1 else "",
            f"{row.parameters:,}",
            f"{row.macs / 1e6:,.1f}",
            f"{row.bytes / 1e3:,.1f}",
            spec.layers[row.layer].doc if row.layer in spec.layers else "internal, not a feature space",
        )
        for row in rows
    ]
    show_table(columns, cells)
    how = spec.preprocessing
    print(f"{spec.name}: {spec.doc}; licence: {spec.licence}; weights: {spec.source}")
    print(f"{totals['parameters']:,} parameters, {totals['macs'] / 1e9:.2f} billion MACs a photo of {how.crop} pixels")
    if spec.classes and spec.published:
        top5 = f", top-5 {spec.published.top5} %" if spec.published.top5 else ""
        print(f"ImageNet's validation photos: top-1 {spec.published.top1} %{top5} ({spec.published.source})")


def classify(
    image: Annotated[Path, typer.Argument(help="the photo")],
    backbone: Annotated[str, typer.Option(help="a name that `likeness backbones` lists")] = "efficientnet_lite0",
    k: Annotated[int, typer.Option("-k", "--k", min=1, help="number of classes")] = 5,
    as_json: AsJson = False,
    config: Config = None,
    assignments: Assignments = None,
) -> None:
    """Classify a photo by a network's classes."""
    from likeness.models.imagenet_classifier import ImagenetClassifier

    photo = read_photo(image)
    classifier = ImagenetClassifier(load(None, config, assignments), backbone)
    try:
        labels = classifier.labels(photo, k)
    except BadImage as bad:
        raise UsageError(f"{image} cannot be classified: {bad}") from None
    cells = [(one.name, f"{one.probability:.3f}") for one in labels]
    value = {"space": classifier.space.id, "labels": labels}
    show_result(value, as_json, lambda: show_table(("class", "probability"), cells))


def profile(
    source: Annotated[str, typer.Option(help="folder, .tar or .parquet of photos")],
    space: Annotated[
        str | None, typer.Option(help="feature space, as alexnet.fc6 (default: the space of the settings)")
    ] = None,
    as_json: AsJson = False,
    config: Config = None,
    assignments: Assignments = None,
) -> None:
    """Measure the speed of this machine.

    Photos a second of reading, decoding and the network, each alone; prints the settings that follow.
    """
    from likeness.ops import hardware_profile

    settings = load_settings(config, {"source.uri": source, "extract.space": space}, assignments or ())
    result = hardware_profile.profile(settings, lambda message: print(f"profile: {message}", file=sys.stderr))
    if as_json:
        show_json(result)
        return
    rows = [
        ("read", "one reader", f"{result.read:,.0f}", f"{result.read * result.megabytes:,.1f} MB/s"),
        ("decode", "GPU" if result.decoder == "network" else f"{result.cores} cores", f"{result.decode:,.0f}", ""),
        *(("network", f"batches of {size}", f"{rate:,.0f}", "") for size, rate in result.batches.items()),
        ("ceiling", f"{result.cores} cores", f"{result.ceiling:,.0f}", f"bottleneck: {result.bottleneck}"),
    ]
    show_table(("stage", "on", "photos a second", ""), rows)
    if result.parity < 1:
        print(f"bfloat16: the smallest cosine to float32 is {result.parity:.5f}; chosen if faster and at least 0.999")
    flags = " ".join(f"--set {name}={value}" for name, value in result.settings.items())
    print(f"{result.space} by {result.runtime}; {result.photos} photos of {result.megabytes:.2f} MB; use: {flags}")


@weights.command("import")
def import_(
    archive: Annotated[Path, typer.Argument(help="bvlc_alexnet.npy, the published weights of Caffe's AlexNet")],
    to: Annotated[Path | None, typer.Option(help="file to write (default: next to it, .safetensors)")] = None,
) -> None:
    """Convert the weights of Caffe's AlexNet.

    Writes a safetensors file for the backbone alexnet_caffe.
    """
    from likeness.models.backbones.caffe import convert

    path = to or archive.with_suffix(".safetensors")
    count = convert(archive, path)
    print(f"{count:,} parameters written to {path}")
    print(f"use them: --set extract.space=alexnet_caffe.fc6 --set extract.weights={path}")
