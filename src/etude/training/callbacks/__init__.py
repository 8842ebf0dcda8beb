"""One technique per file. A callback transforms a value of the step or watches it, never another callback."""
