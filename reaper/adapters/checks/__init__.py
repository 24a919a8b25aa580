"""External checks: what others say before reaper acts."""
