"""Images: decoding, decoder processes, preprocessing, query views, perturbations, contact sheets.   [Pillow]"""
