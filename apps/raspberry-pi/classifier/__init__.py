"""A camera classifier as a service around one bundle of edgevit."""
