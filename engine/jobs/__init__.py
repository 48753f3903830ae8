"""Files: one job, jobs in segments, batches, clusters, stills."""
