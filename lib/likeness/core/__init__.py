"""What every package may import: errors, settings, URIs, formatting, progress, statistics, malloc options."""
