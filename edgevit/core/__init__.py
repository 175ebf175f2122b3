"""Tools without domain knowledge: digests, files, binary readers, progress. Imports only `edgevit.errors`."""
