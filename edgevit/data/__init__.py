"""Reads and preprocesses images: pictures, folders, streams and the bundled digits."""
