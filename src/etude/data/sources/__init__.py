"""Where data comes from: known data sets, downloads and archives, all distrusted until checked."""
