"""Serving: a leaf searches shards, the root fans out and merges, the encoder turns a photo into a vector."""
