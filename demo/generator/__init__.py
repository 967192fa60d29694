"""Synthetic accounting documents: names, values, records, layouts and noise."""
