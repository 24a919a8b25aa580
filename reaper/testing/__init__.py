"""Shipped doubles: an in-memory fleet with replication, and a clock that a test moves."""
