"""The stages of a run, a module each: tables in, tables or shards out.   [pyspark]"""
