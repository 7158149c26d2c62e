"""Few-step quality: solvers, spacings and guidance on one trained model, as JSON lines.

    python benchmarks/grids.py runs/mnist --nfe 4 6 8 10 --out benchmarks/results/grids.jsonl

Frechet distance of n samples to half B of the training set; the test set is not touched. --nfe is
that of the solver; guidance other than 1 doubles it, and the rows say so.
The same noise and labels everywhere, so that differences are of the solver and not of the draw.
"""

import argparse
import json
from itertools import product
from pathlib import Path

import numpy as np

from pocketddpm.diffusion.build import build_sampler
from pocketddpm.errors import ConfigError
from pocketddpm.metrics.frechet import Moments, frechet_distance
from pocketddpm.metrics.reference_data import load_reference_data
from pocketddpm.models.model import load

SOLVERS = {
    "ddim": {},
    "dpmpp": {},
    "dpmpp order 3": {"order": 3},
    "unipc": {},
    "deis": {},
    "ipndm": {},
    "heun": {},
    "consistency": {},
}
GRIDS = ("karras", "log-snr", "trailing")


def main() -> None:
    """Draw and score every combination."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("--n", type=int, default=1000)
    parser.add_argument("--nfe", type=int, nargs="+", default=[4, 6, 8, 10])
    parser.add_argument("--solvers", nargs="+", choices=list(SOLVERS))
    parser.add_argument("--grids", nargs="+")
    parser.add_argument("--guidance", type=float, nargs="+", default=[1.0])
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    model = load(args.model)
    distilled = model.experiment.sampling.sampler == "consistency"
    solvers = args.solvers or [s for s in SOLVERS if (s == "consistency") == distilled]
    grids = args.grids or (["jumps"] if distilled else GRIDS)
    reference = load_reference_data(model.experiment.data.name)
    space = reference.spaces[0]
    labels = model.label_numbers("all", args.n, 0)
    for nfe in args.nfe:
        for solver in solvers:
            name, options = solver.split(" ")[0], SOLVERS[solver]
            choice = build_sampler(name, options)
            steps = max((s for s in range(1, nfe + 1) if choice.calls(s) <= nfe), default=0)
            for grid, guidance in product(grids, args.guidance):
                try:
                    samples = model.sample(
                        args.n, labels=labels, sampler=name, options=options, steps=steps,
                        spacing=grid, guidance=guidance, batch_size=250, precision=args.precision,
                    )  # fmt: skip
                except ConfigError as error:
                    print(f"skipped: {solver}, {grid}, {nfe}: {error}", flush=True)
                    continue
                moments = Moments.of(space.extractor(samples.images).values)
                row: dict[str, object] = {
                    "run": args.model,
                    "solver": solver,
                    "grid": grid,
                    "guidance": guidance,
                    "nfe": samples.nfe,
                    "n": args.n,
                    "frechet": round(float(frechet_distance(moments, space.half_b)), 3),
                }
                if reference.judge is not None and labels is not None:
                    judged = reference.judge(samples.images).logits.argmax(1).numpy()
                    row["agreement"] = round(100 * float(np.mean(judged == labels)), 2)
                print(json.dumps(row), flush=True)
                if args.out:
                    with open(args.out, "a", encoding="utf-8") as file:
                        file.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main()
