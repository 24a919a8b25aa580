"""The probe: evidence from a client's view, and a load."""
