"""Measurements of reaper on real servers, each against what the best hand-made alternative costs here."""
