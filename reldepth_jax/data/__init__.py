"""Reading, transforming and batching images with depth."""
