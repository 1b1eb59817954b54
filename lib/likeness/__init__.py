"""likeness: visual search for product catalogues on a Hadoop stack."""

__version__ = "0.1.0"
