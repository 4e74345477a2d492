"""One module a stage of dvc.yaml, always run as `python -m stages.NAME` from the project's root."""
