"""The mathematics: schedules, processes, objectives, guidance, the denoiser, the sampling loop."""
