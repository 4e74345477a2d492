"""What was published, what was measured, and the verdicts."""
