"""Indexes: shard plan (pure), kinds, build with audit, search and merge.   [faiss]"""
