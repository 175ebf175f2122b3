"""The export and quantize pipelines, the export cache and the environment check."""
