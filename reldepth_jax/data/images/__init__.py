"""Photographs and maps: decoding, orientation, resizing, writing."""
