"""Endpoints that belong to no provider."""
