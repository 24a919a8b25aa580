"""The local provider: real servers as processes on loopback."""
