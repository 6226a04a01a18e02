"""Sites that train one network together: federated (same kind of image, other patients) and split (same patients, other images)."""
