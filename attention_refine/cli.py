"""The command line: ``attention-refine demo | finetune | evaluate | compare | explain | inspect | backbones``."""

from __future__ import annotations

import argparse
import sys
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

import yaml

IMAGES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")


def main(argv: list[str] | None = None) -> int:
    """Run one command; 0 when it did, 2 for a usage error, 1 for a failure said in one sentence on stderr."""
    arguments = _parser().parse_args(argv)
    try:
        arguments.run(arguments)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except (ValueError, OSError, RuntimeError) as error:
        if arguments.traceback:
            raise
        print(f"attention-refine: {' '.join(str(error).split()) or type(error).__name__}", file=sys.stderr)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="attention-refine",
        description="Change what a vision model attends to, and measure whether the map improved.",
    )
    parser.add_argument("--traceback", action="store_true", help="show the whole traceback of an error")
    parser.add_argument("--version", action="version", version=_version())
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    demo = _command(
        commands, "demo", _demo, "train a plain model and one with an attention branch on made images; write a report"
    )
    demo.add_argument("--output", default="attention-refine-demo", help="folder to write to (default: %(default)s)")
    demo.add_argument("--seed", type=int, default=0, help="seed (default: %(default)s)")
    demo.add_argument("--quick", action="store_true", help="a few steps only, to see that everything works")

    finetune = _command(commands, "finetune", _finetune, "wrap, train and evaluate what a YAML file describes")
    finetune.add_argument("config", nargs="?", help="YAML file, or the name of one that is shipped (see --list)")
    finetune.add_argument("--list", action="store_true", help="list the shipped configs and stop")
    _add_sections(finetune)

    evaluate = _command(commands, "evaluate", _evaluate, "measure one or several saved models on the same images")
    evaluate.add_argument("models", nargs="+", metavar="MODEL", help="saved folder or Hub id, optionally name=MODEL")
    evaluate.add_argument("--output", default="evaluation", help="folder for results and report (default: %(default)s)")
    evaluate.add_argument("--split", default="test", help="split to measure on (default: %(default)s)")
    evaluate.add_argument("--config", help="YAML file whose data and evaluation sections are used")
    _add_sections(evaluate, only=("data", "evaluation"))

    compare = _command(commands, "compare", _compare, "put finished evaluations side by side, with paired differences")
    compare.add_argument(
        "evaluations", nargs="+", metavar="EVALUATION", help="folder or evaluation.json, optionally name=FILE"
    )
    compare.add_argument("--output", default="comparison.html", help="page to write (default: %(default)s)")

    explain = _command(commands, "explain", _explain, "write images with the model's map drawn over them")
    explain.add_argument("model", metavar="MODEL", help="saved folder or Hub id")
    explain.add_argument("images", nargs="+", metavar="IMAGE", help="image files or folders")
    explain.add_argument("--output", default="explained", help="folder to write to (default: %(default)s)")
    explain.add_argument("--method", default="model", help="model, or the name of a map in attention_refine.maps")

    inspect = _command(commands, "inspect", _inspect, "say what a saved model is: backbone, site, head, classes, size")
    inspect.add_argument("model", metavar="MODEL", help="saved folder or Hub id")

    backbones = _command(
        commands, "backbones", _backbones, "which networks can be wrapped and where the map acts, found by running"
    )
    backbones.add_argument("--filter", default="", help="only networks whose name holds this text, such as timm/swin")
    return parser


def _command(commands: Any, name: str, run: Any, help: str) -> argparse.ArgumentParser:
    command = commands.add_parser(name, help=help, description=help[0].upper() + help[1:] + ".")
    command.set_defaults(run=run)
    return command


def _version() -> str:
    from . import __version__

    return __version__


def _add_sections(parser: argparse.ArgumentParser, only: tuple[str, ...] | None = None) -> None:
    """An option for every field of the recipe's sections; one that is not given leaves the file's value."""
    from .recipe import Recipe

    for section, kind in Recipe.sections().items():
        if only and section not in only:
            continue
        group = parser.add_argument_group(section)
        for each in fields(kind):
            default = each.default if each.default is not MISSING else each.default_factory()
            group.add_argument(
                f"--{section}.{each.name}",
                dest=f"{section}.{each.name}",
                metavar="VALUE",
                default=argparse.SUPPRESS,
                type=_value,
                help=f"{each.metadata['help']} (default: {default})".replace("%", "%%"),
            )


def _value(text: str) -> Any:
    """A value as YAML reads it, and 1e-4 as the number it is."""
    try:
        return float(text) if "e" in text.lower() and not text.startswith(("[", "{")) else yaml.safe_load(text)
    except ValueError:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not a value") from error


def _overrides(arguments: argparse.Namespace) -> dict[str, dict[str, Any]]:
    out: dict[str, dict[str, Any]] = {}
    for key, value in vars(arguments).items():
        section, dot, name = key.partition(".")
        if dot:
            out.setdefault(section, {})[name] = value
    return out


def _demo(arguments: argparse.Namespace) -> None:
    from .demo import demo

    print(f"report: {demo(arguments.output, seed=arguments.seed, quick=arguments.quick)}")


def _finetune(arguments: argparse.Namespace) -> None:
    from .recipe import Recipe, run, shipped, shipped_names

    if arguments.list or arguments.config is None:
        print("\n".join(shipped_names()))
        if not arguments.list:
            raise ValueError("name a YAML file or one of the shipped configs above")
        return
    done = run(Recipe.load(shipped(arguments.config), _overrides(arguments)))
    if done.evaluation is not None:
        print(done.evaluation)
    print(f"model: {done.model_path}\nreport: {done.report_path}")


def _evaluate(arguments: argparse.Namespace) -> None:
    from .hub import load
    from .recipe import Recipe, judge, load_split, merged, read_yaml, shipped
    from .report import galleries, write_report

    values = read_yaml(shipped(arguments.config)) if arguments.config else {}
    values = merged({key: values.get(key) or {} for key in ("data", "evaluation")}, _overrides(arguments))
    recipe = Recipe.from_dict(values, where=arguments.config or "command line")
    output = Path(arguments.output)
    models, evaluations = {}, {}
    for name, path in _named(arguments.models).items():
        models[name] = load(path)
        split = load_split(recipe.data, arguments.split, models[name].labels)
        evaluations[name] = judge(recipe, models[name], split, output / name)
        print(f"{name}\n{evaluations[name]}\n")
    report = write_report(
        output / "report.html",
        evaluations,
        galleries=galleries(models, split, evaluations),
        title=f"{' and '.join(models)} on {recipe.data.source}, {arguments.split}",
    )
    print(f"report: {report}")


def _compare(arguments: argparse.Namespace) -> None:
    from .evaluation import Evaluation, compare
    from .report import write_report

    files = {}
    for name, path in _named(arguments.evaluations).items():
        files[name] = Path(path) / "evaluation.json" if Path(path).is_dir() else Path(path)
    if len(files) < 2:
        raise ValueError("compare needs at least two evaluations of the same images")
    evaluations = {name: Evaluation.from_json(file) for name, file in files.items()}
    print(compare(evaluations))
    print(f"report: {write_report(Path(arguments.output), evaluations, title=' and '.join(evaluations))}")


def _named(given: list[str]) -> dict[str, str]:
    """Paths by name: the name given with it, or the folder's; with its parent's where several end alike."""
    found: dict[str, str] = {}
    for text in given:
        name, equals, path = text.partition("=")
        if not equals:
            parts, path = Path(text).parts, text
            alike = sum(Path(other).name == parts[-1] for other in given) > 1
            name = "-".join(parts[-2:]) if alike else parts[-1]
        if name in found:
            raise ValueError(f"two are called {name!r}; name them: plain={text}")
        found[name] = path
    return found


def _explain(arguments: argparse.Namespace) -> None:
    from tqdm.auto import tqdm

    from .explanation import explain_image
    from .hub import load

    model = load(arguments.model)
    files = [file for given in arguments.images for file in _image_files(Path(given))]
    output = Path(arguments.output)
    output.mkdir(parents=True, exist_ok=True)
    taken: set[str] = set()
    for file in tqdm(files, desc="explaining", disable=len(files) < 2):
        found = explain_image(model, file, arguments.method)
        name = file.stem
        while name in taken:  # a/cat.jpg and b/cat.jpg
            name += "_"
        taken.add(name)
        found.picture.save(output / f"{name}.png")
        tqdm.write(f"{file}: {found.label} ({found.score:.0%}) -> {output / name}.png")


def _image_files(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise ValueError(f"{path} does not exist")
    files = sorted(file for file in path.rglob("*") if file.suffix.lower() in IMAGES)
    if not files:
        raise ValueError(f"{path} holds no images ({', '.join(IMAGES)})")
    return files


def _inspect(arguments: argparse.Namespace) -> None:
    from .inspection import describe

    print(describe(arguments.model))


def _backbones(arguments: argparse.Namespace) -> None:
    from .support import markdown, rows

    for line in markdown(rows(arguments.filter)):
        print(line, flush=True)


if __name__ == "__main__":
    sys.exit(main())
