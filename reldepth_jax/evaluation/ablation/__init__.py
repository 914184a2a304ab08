"""Many trainings that differ in one thing, and what comes out, told with its spread."""
