"""What passes: the way of a stream's bytes, and the marks it leaves on the timeline."""
