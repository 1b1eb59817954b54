"""Indexes: shard plan, kinds, build, recall audit, search of shards, increments, and the builds of a root.   [faiss]"""
