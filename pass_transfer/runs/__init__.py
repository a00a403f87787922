"""What a run of adapt leaves in its folder, and how it is read again."""
