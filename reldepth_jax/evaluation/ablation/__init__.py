"""Many trainings that differ in one thing, judged together."""
