"""What is said: events, dialects, requests and headers, as bytes and as values."""
