"""Width pruning: finds the widths of an architecture, and cuts a model down to fewer units."""
