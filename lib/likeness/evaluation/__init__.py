"""Evaluation: retrieval metrics, evaluation sets, judgements, comparison of spaces, robustness."""
