"""How good is each map on photographs with masks? Every map of ``ar.maps``, against maps that look at nothing.

    python benchmarks/map_quality.py --data FOLDER --weights resnet50.safetensors --output runs/quality/resnet50

``FOLDER`` has a ``test`` split with masks; ``--images`` are spread evenly over it. Insertion and deletion are measured
on ``--perturbed`` of these, and the maps that cost tens or hundreds of forwards an image are made for the same ones only.
The target is the class the network predicts. A run that was cut short goes on with ``--resume``. Prints a table in
Markdown.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch
from photographs import Spread, add_arguments, network

import attention_refine as ar
from attention_refine import maps, metrics
from attention_refine.evaluation.measures import MEASURES as TITLES
from attention_refine.evaluation.results import Evaluation

MEASURES = ("mask_correlation", "energy_inside", "pointing_game", "insertion", "deletion")
CHEAP = (
    "grad_cam", "grad_cam_plus_plus", "layer_cam", "eigen_cam", "gradient", "guided_backprop", "guided_grad_cam",
    "attention_rollout", "gradient_rollout", "legrad", "class_attention",
)  # fmt: skip
COSTLY = {
    "integrated_gradients": {"steps": 10, "rule": "gauss", "reduce": "abs"},
    "smooth_grad": {"samples": 10},
    "score_cam": {"top_channels": 32},
    "occlusion": {"window": 48, "stride": 32, "probability": "softmax"},
    "rise": {"masks": 128},
}
OF_TRANSFORMERS = ("attention_rollout", "gradient_rollout", "legrad", "class_attention")


def chosen(net: torch.nn.Module, names: tuple[str, ...]) -> dict:
    """Functions as ``evaluate`` takes them, those left out that the network has no attention for."""
    has_attention = any("attn" in name for name, _ in net.named_modules())
    return {name: partial(_made, name) for name in names if has_attention or name not in OF_TRANSFORMERS}


def _made(name: str, net: torch.nn.Module, pixel_values: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    made = maps.by_name(name)(net, pixel_values, **COSTLY.get(name, {}))
    return made.mean(1, keepdim=True)  # the heads of class_attention; of the others there is one


def fine_noise(net: torch.nn.Module, pixel_values: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """White noise a pixel, the same for every image: the control of maps at the pixels' resolution."""
    return metrics.random_maps(torch.zeros(len(pixel_values), dtype=torch.long), tuple(pixel_values.shape[-2:]), seed=1)


def table(evaluations: list[Evaluation], measures: Sequence[str]) -> str:
    lines = ["| map | images | " + " | ".join(TITLES[m].title for m in measures) + " |"]
    lines.append("|---|---|" + "---|" * len(measures))
    for evaluation in evaluations:
        for name, measured in evaluation.summary["maps"].items():
            found = [measured[measure] for measure in measures if measure in measured]
            if not found:  # a control, and measures that are not taken of it
                continue
            cells = [_cell(measured[measure]) if measure in measured else "-" for measure in measures]
            seen, perturbed = found[0]["count"], found[-1]["count"]
            lines.append(f"| {name} | {seen} / {perturbed} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _cell(found: dict) -> str:
    return f"{found['value']:.2f} ({found['low']:.2f} to {found['high']:.2f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser)
    parser.add_argument("--data", type=Path, required=True, help="folder with a test split")
    parser.add_argument("--output", type=Path, required=True, help="where every image's values go")
    parser.add_argument("--images", type=int, default=40)
    parser.add_argument("--perturbed", type=int, default=12)
    parser.add_argument("--steps", type=int, default=8, help="points of insertion and deletion")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--measures", nargs="+", default=list(MEASURES), help="as `evaluate` names them")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--parts", nargs="+", default=["cheap", "costly"], choices=["cheap", "costly"])
    parser.add_argument("--maps", nargs="+", choices=CHEAP, default=list(CHEAP), help="of the cheap ones")
    parser.add_argument("--resume", action="store_true")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    net, preprocessing = network(given.weights, given.network)
    with_controls = {
        **chosen(net, tuple(given.maps)),
        "random": None,
        "centre": None,
        "random, a value a pixel": fine_noise,
    }
    evaluations = []
    photographs = Spread(given.data, preprocessing, given.images)
    parts = {
        "cheap": (with_controls, photographs),
        "costly": (chosen(net, tuple(COSTLY)), photographs.thinned(given.perturbed)),
    }
    for part in given.parts:
        sources, images = parts[part]
        evaluations.append(
            ar.evaluate(
                net,
                images,
                measures=given.measures,
                maps=sources,
                batch_size=given.batch,
                perturbation_images=given.perturbed,
                perturbation_steps=given.steps,
                output=given.output / part,
                resume=given.resume,
            )  # fmt: skip
        )
    print(f"`{shlex.join(['python', *sys.argv])}`\n\n{table(evaluations, given.measures)}")


if __name__ == "__main__":
    main()
