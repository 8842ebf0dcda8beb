"""From files to batches: finding, labelling, loading."""
