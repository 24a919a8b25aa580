"""Announcements: people are told over channels, later if need be, and never at the cost of a cutover."""
