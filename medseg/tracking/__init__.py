"""Run records: manifest, MLflow, determinism."""
