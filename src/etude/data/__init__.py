"""From files to batches: finding, labeling, loading."""
