# %% [markdown]
# # What MLflow is told
#
# Every `medseg fit` writes an MLflow record into the bundle's own store, without a server: settings, curves, pictures, the plan, the
# versions. `mlflow ui --backend-store-uri sqlite:///BUNDLE/runs/mlflow.db` shows it in a browser; from Python it is read as any other.
# %%
import medseg
from medseg.datasets.demo import make_demo_dataset

make_demo_dataset("data", subjects=3, left_out=0, spacing_mm=4.0)
medseg.plan("data", "bundle", device="cpu", preset="resenc_unet", folds=3)
scores = medseg.fit("bundle", fold=0, device="cpu", overrides={"max_epochs": 3, "steps_per_epoch": 5, "num_workers": 0})
# %%
from pathlib import Path

import mlflow

store = next(Path("bundle").rglob("mlflow.db"))
client = mlflow.MlflowClient(f"sqlite:///{store}")
run = next(
    run for e in client.search_experiments() for run in client.search_runs([e.experiment_id]) if run.data.metrics
)
print(store, "holds the run", repr(run.info.run_name))
print(sorted(run.data.metrics))
print(sorted(run.data.params)[:8], "...")
# %% [markdown]
# The curve of one metric, step by step:
# %%
history = client.get_metric_history(run.info.run_id, "train_loss")
print([(point.step, round(point.value, 2)) for point in history])
