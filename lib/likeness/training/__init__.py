"""Training on a catalogue: tables and photos in, versions of models out. No Spark.   [torch]"""
