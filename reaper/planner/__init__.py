"""Decisions as total functions: domain values in, domain values out."""
