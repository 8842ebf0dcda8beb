"""Run folders: everything that made a result, written down while it is made."""
