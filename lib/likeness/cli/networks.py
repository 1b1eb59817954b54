"""`likeness backbones`, `likeness classify`, `likeness weights`: networks, and what they say of a photo.   [typer]"""

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from likeness.cli.common import AsJson, Assignments, Config, load, read_photo, show_json, show_table
from likeness.core.errors import UsageError
from likeness.core.settings import load_settings
from likeness.images.image import BadImage
from likeness.models.backbones import Backbone, registry

backbones = typer.Typer(help="The networks that are known, and their layers.", invoke_without_command=True)
weights = typer.Typer(help="Files of weights.", no_args_is_help=True)


@backbones.callback()
def listed(context: typer.Context, as_json: AsJson = False) -> None:
    """The networks that are known, and their layers: `show NAME` has all of one."""
    if context.invoked_subcommand:
        return
    told = [_told(spec) for spec in registry().values()]
    if as_json:
        show_json(told)
        return
    columns = ("name", "side", "top-1", "top-5", "weights", "what")
    show_table(columns, [tuple(one[name] for name in columns) for one in told])
    print("top-1, top-5: percent of ImageNet's validation photos, as published. `likeness backbones show NAME`: layers")


def _told(spec: Backbone) -> dict[str, Any]:
    published = spec.published
    return {
        "name": spec.name,
        "side": spec.preprocessing.crop,
        "top-1": published and published.top1,
        "top-5": published and published.top5,
        "weights": spec.source,
        "what": spec.doc,
        "licence": spec.licence,
        "layers": list(spec.layers),
    }


@backbones.command("show")
def show(
    name: Annotated[str, typer.Argument(help="as `likeness backbones` lists it")], as_json: AsJson = False
) -> None:
    """Every layer of a network: its output, how much of the photo it sees, and what it costs."""
    spec = registry().get(name)
    if spec is None:
        raise UsageError(f"{name!r}: no such network; there are: {', '.join(registry())}")
    from likeness.models.backbones.summary import summary

    rows = summary(spec)
    totals = {"parameters": sum(row.parameters for row in rows), "macs": sum(row.macs for row in rows)}
    if as_json:
        show_json(_told(spec) | totals | {"stages": [vars(row) for row in rows]})
        return
    columns = ("layer", "output", "sees", "stride", "parameters", "million MACs", "kB out", "")
    cells = [
        (
            row.layer,
            " x ".join(map(str, row.shape)),
            row.field,
            row.stride if len(row.shape) > 1 else "",
            f"{row.parameters:,}",
            f"{row.macs / 1e6:,.1f}",
            f"{row.bytes / 1e3:,.1f}",
            spec.layers[row.layer].doc if row.layer in spec.layers else "inside: cannot be asked for",
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
    backbone: Annotated[str, typer.Option(help="as `likeness backbones` lists it")] = "efficientnet_lite0",
    k: Annotated[int, typer.Option("-k", "--k", min=1, help="classes wanted")] = 5,
    as_json: AsJson = False,
    config: Config = None,
    assignments: Assignments = None,
) -> None:
    """What a photo shows, by the classes that a network was trained on."""
    from likeness.models.imagenet_classifier import ImagenetClassifier

    photo = read_photo(image)
    classifier = ImagenetClassifier(load(None, config, assignments), backbone)
    try:
        labels = classifier.labels(photo, k)
    except BadImage as bad:
        raise UsageError(f"{image} cannot be classified: {bad}") from None
    if as_json:
        show_json({"space": classifier.space.id, "labels": [vars(one) for one in labels]})
    else:
        show_table(("class", "probability"), [(one.name, f"{one.probability:.3f}") for one in labels])


def profile(
    source: Annotated[str, typer.Option(help="folder, .tar or .parquet of photos")],
    space: Annotated[
        str | None, typer.Option(help="feature space, as alexnet.fc6 (default: the settings' own)")
    ] = None,
    as_json: AsJson = False,
    config: Config = None,
    assignments: Assignments = None,
) -> None:
    """What this machine can extract a second: reading, decoding and the network, each alone, and what follows."""
    from likeness.ops import hardware_profile

    settings = load_settings(config, {"source.uri": source, "extract.space": space}, assignments or ())
    found = hardware_profile.profile(settings, lambda told: print(f"profile: {told}", file=sys.stderr))
    if as_json:
        show_json(vars(found))
        return
    rows = [
        ("read", "one reader", f"{found.read:,.0f}", f"{found.read * found.megabytes:,.1f} MB/s"),
        ("decode", "GPU" if found.decoder == "network" else f"{found.cores} cores", f"{found.decode:,.0f}", ""),
        *(("network", f"batches of {size}", f"{rate:,.0f}", "") for size, rate in found.batches.items()),
        ("ceiling", f"{found.cores} cores", f"{found.ceiling:,.0f}", f"most of the time goes into: {found.bottleneck}"),
    ]
    show_table(("stage", "on", "photos a second", ""), rows)
    if found.parity < 1:
        print(
            f"bfloat16: the smallest cosine to float32 is {found.parity:.5f}; it is taken from 0.999 on, where faster"
        )
    chosen = " ".join(f"--set {name}={value}" for name, value in found.settings.items())
    print(f"{found.space} by {found.runtime}; {found.photos} photos of {found.megabytes:.2f} MB; chosen: {chosen}")


@weights.command("import")
def import_(
    archive: Annotated[Path, typer.Argument(help="bvlc_alexnet.npy, the published archive of Caffe's AlexNet")],
    to: Annotated[Path | None, typer.Option(help="file to write (default: beside it, .safetensors)")] = None,
) -> None:
    """Turn an archive of Caffe's AlexNet into a safetensors file for the backbone alexnet_caffe."""
    from likeness.models.backbones.caffe import convert

    path = to or archive.with_suffix(".safetensors")
    count = convert(archive, path)
    print(f"{count:,} parameters written to {path}")
    print(f"use them: --set extract.space=alexnet_caffe.fc6 --set extract.weights={path}")
