"""Nearest neighbours over codes: `embstore.Table.search` is the door."""
