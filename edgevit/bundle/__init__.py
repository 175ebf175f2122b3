"""Write bundles atomically, read them without trusting them."""
