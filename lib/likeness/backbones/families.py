"""The families of backbones: a file here lists its `Backbone`s in BACKBONES; add its module to `registry`."""

from likeness.backbones.spec import Backbone


def registry() -> dict[str, Backbone]:
    """Every known backbone by name."""
    from likeness.backbones import alexnet, efficientnet_lite, hog, inception, lenet, nin, resnet, vgg

    families = (efficientnet_lite, alexnet, vgg, nin, resnet, inception, lenet, hog)
    return {spec.name: spec for family in families for spec in family.BACKBONES}
