"""The registry: bundles as model versions in MLflow, pushed, pulled by name, and served."""
