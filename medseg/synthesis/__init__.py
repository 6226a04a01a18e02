"""Images that no scanner took, each made for a label map: by a trained denoiser, or by cheap changes of real pairs."""
