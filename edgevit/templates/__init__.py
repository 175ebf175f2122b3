"""App templates of `apps/`, and new apps made from them with a bundle."""
