"""Policy files: read, checked, explained."""
