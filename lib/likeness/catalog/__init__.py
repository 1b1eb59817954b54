"""The catalogue: sources and their listings, products, hidden products, annotations, and samples of photos."""
