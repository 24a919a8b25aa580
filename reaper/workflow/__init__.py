"""The rotation and the kill as ordered steps over small Protocols."""
