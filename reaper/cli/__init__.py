"""Thin commands, one composition root, rendering."""
