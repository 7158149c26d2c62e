"""The samplers: one algorithm per file. See `pocketddpm.catalog`.

Each file has a `Config` of options, `STOCHASTIC`, `order(config)` of convergence, `sample`, a
generator of `State`, and, where a step does not call the denoiser once, `nfe(steps, config)`, the
calls of a run. In their equations
a = sqrt(alpha_bar), b = sqrt(1 - alpha_bar), a step leads from time t to s, z is standard normal;
x0_hat and eps_hat are the denoiser's estimates at x_t. Images are [B,C,H,W] of any float dtype.
"""
