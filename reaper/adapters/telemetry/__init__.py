"""What the daemon says of itself: metrics for Prometheus, health for whoever asks, a word to systemd."""
