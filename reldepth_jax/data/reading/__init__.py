"""What data sets look like on disk, and how their files are read."""
