"""Submission of jobs: command lines in, a running Spark application out.   [pyspark]"""
