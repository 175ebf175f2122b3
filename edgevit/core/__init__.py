"""Pure values: specs, targets, manifests, digests. Imports only `edgevit.errors`."""
