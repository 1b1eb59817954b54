"""Networks: backbones, feature spaces, runtimes, the extractor, the model registry, classifiers."""
