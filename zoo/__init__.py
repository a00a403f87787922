"""The entries that come with the package, one folder each."""
