"""What people run by hand, above the stages."""
