"""Training on a catalogue: tables and photos in, versions of models out. No Spark.   [torch]

The way of a training: request -> plan -> prepare (data, images) -> experiment -> trainer -> card and report.
"""
