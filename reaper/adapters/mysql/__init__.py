"""MySQL and MariaDB behind one interface. Nothing outside this package knows a spelling."""
