"""Places that run a model: how to reach them, put files there, and start edgevit's runner."""
