"""What every package may use: errors, settings, URIs, formatting, progress, statistics. Imports no other package."""
