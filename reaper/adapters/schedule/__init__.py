"""When policies fire: cron slots, jitter, calendars, holidays and freezes from files."""
