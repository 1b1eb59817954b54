"""Benchmarks: `make bench` prints each figure with what it is judged against."""
