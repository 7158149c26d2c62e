r"""Make a trained run a model that ships with the package: averaged weights, and a card.

    python scripts/ship.py runs/mnist mnist
    pocketddpm evaluate mnist --out runs/mnist-score
    python scripts/ship.py runs/mnist mnist --report runs/mnist-score --overwrite \
        --history "trained by: pocketddpm train mnist --minutes 60"

The first writes src/pocketddpm/weights/mnist.safetensors, the last also its card, mnist.md.
"""

import argparse
import json
from pathlib import Path

import torch

import pocketddpm
from pocketddpm.models.checkpoint import (
    Checkpoint,
    find_checkpoint,
    load_checkpoint,
    save_checkpoint,
)
from pocketddpm.models.provenance import versions
from pocketddpm.output import refuse_existing, write_text

WEIGHTS = Path(pocketddpm.__file__).parent / "weights"


def main() -> None:
    """Write the weights, and the card when there is a report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("name")
    parser.add_argument("--report", type=Path, help="a folder that `evaluate --out` wrote")
    parser.add_argument("--history", default="", help="how it was trained, for the card")
    parser.add_argument("--overwrite", action="store_true")
    args = parser.parse_args()
    out = WEIGHTS / f"{args.name}.safetensors"
    refuse_existing(out, args.overwrite)
    run = load_checkpoint(find_checkpoint(args.run))
    weights = run.part("ema") or run.part("model")
    tensors = {
        f"model.{k}": v.to(torch.bfloat16) if v.is_floating_point() else v
        for k, v in weights.items()
    }
    tensors |= {f"scaling.{k}": v for k, v in run.part("scaling").items()}
    kept = {k: v for k, v in run.meta.items() if k != "format_version"}
    kept["data"] = {**kept["data"], "source": ""}  # where it lay on somebody's disk
    save_checkpoint(out, Checkpoint(kept, tensors))
    print(f"wrote {out}: {out.stat().st_size / 1e6:.1f} MB")
    if args.report is not None:
        card = out.with_suffix(".md")
        write_text(card, page(args.name, kept, args.report, args.history))
        print(f"wrote {card}")


def page(name: str, meta: dict, report: Path, history: str) -> str:
    """Return the model card."""
    run, experiment = meta["run"], meta["experiment"]
    scores = (report / "report.md").read_text(encoding="utf-8").split("\n## Closest pairs")[0]
    return f"""# {name}: a class-conditional diffusion model of {meta["data"]["name"]}

{history}

Its last run: {run["images_seen"]} training images seen
({run["images_seen"] / meta["data"]["images"]:.1f} epochs) in {run["seconds"] / 60:.0f} minutes.
Averaged weights, rounded to bfloat16 by `scripts/ship.py` at commit {versions()["commit"]};
pocketddpm {meta["versions"]["pocketddpm"]}, torch {meta["versions"]["torch"]}.

Data: {meta["data"]["name"]}, {meta["data"]["images"]} training images, fingerprint
{meta["data"]["fingerprint"]}. It knows nothing else, and is made for teaching and measurement.

## Scores

{scores.split(chr(10), 1)[1].strip() if scores.startswith("#") else scores.strip()}

## Recipe

```json
{json.dumps(experiment, indent=1)}
```
"""


if __name__ == "__main__":
    main()
