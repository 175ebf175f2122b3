"""Apps around a bundle: the templates of `apps/`, and a new app from one of them."""
