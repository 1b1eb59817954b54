"""The pipeline's stages on Spark; the only room with pyspark.   [pyspark]"""
