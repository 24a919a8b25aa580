"""Frozen facts and their arithmetic: no clock, no I/O, no logging, standard library only."""
