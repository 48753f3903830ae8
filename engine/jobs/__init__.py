"""File jobs: single, in segments, batches, on clusters, still pictures."""
