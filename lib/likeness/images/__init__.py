"""Bytes to pixels: decoding, decoder processes, preprocessing, query views, perturbations.   [Pillow]"""
