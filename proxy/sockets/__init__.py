"""What is spoken on WebSockets."""
