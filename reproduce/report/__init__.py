"""The report, the slides and the model cards."""
