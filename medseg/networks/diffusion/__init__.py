"""Networks that turn noise into images: a denoiser and the scaling around it."""
