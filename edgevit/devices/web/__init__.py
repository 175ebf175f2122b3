"""The page that measures in a browser, and its server."""
