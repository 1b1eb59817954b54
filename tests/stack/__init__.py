"""The real stack on this machine: HDFS, YARN, HBase."""
