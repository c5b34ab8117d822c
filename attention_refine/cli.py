"""The command line: ``attention-refine demo | check | finetune | evaluate | compare | audit | repair | explain | edit | serve |
space | push | pull | inspect | backbones``."""

from __future__ import annotations

import argparse
import os
import sys
import typing
from collections.abc import Mapping
from dataclasses import MISSING, fields
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from .core.registry import import_file

if TYPE_CHECKING:
    import torch


def main(argv: list[str] | None = None) -> int:
    """Run one command; 0 when it did, 2 for a usage error, 1 for a failure said in one sentence on stderr.

    3 where ``compare --fail-if`` found what it was to fail at.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        words = _with_own(words)
    except (ValueError, OSError) as error:
        print(f"attention-refine: {error}", file=sys.stderr)
        return 1
    parser = _parser(words)
    arguments, left = parser.parse_known_args(words)
    if left:
        parser.error(_unknown(left))
    try:
        _check_alone(arguments)
        code = arguments.run(arguments)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except (ValueError, OSError, RuntimeError) as error:
        if arguments.traceback:
            raise
        print(f"attention-refine: {' '.join(str(error).split()) or type(error).__name__}", file=sys.stderr)
        return 1
    return code or 0


def _with_own(words: list[str]) -> list[str]:
    """Import the files of ``--use``, before help and choices list what there is; the words without them."""
    own = argparse.ArgumentParser(prog="attention-refine", add_help=False, allow_abbrev=False)
    own.add_argument("--use", action="append", default=[])
    found, others = own.parse_known_args(words)
    for path in found.use:
        import_file(path)
    return others


def _check_alone(arguments: argparse.Namespace) -> None:
    """Only ``finetune`` shares its work; several processes of another command would write to the same files."""
    several = int(os.environ.get("WORLD_SIZE", 1)) if "TORCHELASTIC_RUN_ID" in os.environ else 1
    if several > 1 and arguments.run is not _finetune:
        raise ValueError(
            f"{arguments.run.__name__.strip('_')} runs in one process, and torchrun or accelerate launch started "
            f"{several}: start it by itself. finetune is the command that shares its work"
        )


def _parser(words: list[str]) -> argparse.ArgumentParser:
    maps = _map_names(words)
    parser = argparse.ArgumentParser(
        prog="attention-refine",
        description="Change what a vision model attends to, and measure whether the map improved.",
    )
    parser.add_argument(
        "--use", action="append", metavar="FILE",
        help="Python file with heads, objectives, maps or measures of your own; may be given several times",
    )  # fmt: skip
    parser.add_argument("--traceback", action="store_true", help="show the whole traceback of an error")
    parser.add_argument("--version", action="version", version=_version())
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    demo = _command(
        commands,
        "demo",
        _demo,
        "train a plain model on made images, see what it leans on, mend it from a few boxes, see again; a page",
    )
    demo.add_argument(
        "--output", type=_new_folder, default="attention-refine-demo", help="folder to write to (default: %(default)s)"
    )
    demo.add_argument("--seed", type=int, default=0, help="seed (default: %(default)s)")
    demo.add_argument("--quick", action="store_true", help="a few steps only, to see that everything works")

    check = _command(
        commands, "check", _check, "say what would be read of a folder of images, and what is wrong with it"
    )
    check.add_argument("source", metavar="FOLDER", help="folder of images, or another dataset")
    check.add_argument("--label-column", help="column of the labels, if not label or labels")
    check.add_argument("--image-column", help="column of the images, if not image (in metadata: file_name)")
    check.add_argument("--group-column", help="column of the groups, if not group")
    check.add_argument("--box-format", default="xywh", help="xywh, or xyxy for corners (default: %(default)s)")
    check.add_argument("--mask-values", type=int, nargs="+", help="pixel values of masks that are object")
    check.add_argument("--void", type=int, nargs="+", help="pixel values of masks that are void (default: 128)")
    check.add_argument("--revision", help="revision of a Hub dataset")
    check.add_argument(
        "--media", default="auto", help="image or video: which of a folder's files (default: %(default)s)"
    )

    finetune = _command(commands, "finetune", _finetune, "wrap, train and evaluate what a YAML file describes")
    finetune.add_argument("config", nargs="?", help="YAML file, or the name of one that is shipped (see --list)")
    finetune.add_argument("--list", action="store_true", help="list the shipped configs, a line on each, and stop")
    _add_sections(finetune, words)

    evaluate = _command(commands, "evaluate", _evaluate, "measure one or several saved models on the same images")
    evaluate.add_argument(
        "models", nargs="+", metavar="MODEL", help="saved folder, run folder or Hub id; name=MODEL names it"
    )
    evaluate.add_argument(
        "--output", type=_new_folder, default="evaluation", help="folder for results and report (default: %(default)s)"
    )
    evaluate.add_argument("--split", default="test", help="split to measure on (default: %(default)s)")
    evaluate.add_argument("--limit", type=_positive, help="judge so many images only, drawn evenly from the split")
    evaluate.add_argument("--config", help="YAML file whose data and evaluation sections are used")
    _add_device(evaluate)
    _add_sections(evaluate, words, only=("data", "evaluation"))

    fewshot = _command(
        commands, "fewshot", _fewshot, "tell classes apart that a saved model was not trained on, from a few examples"
    )
    fewshot.add_argument(
        "models", nargs="+", metavar="MODEL", help="saved folder, run folder or Hub id; name=MODEL names it"
    )
    fewshot.add_argument("--split", default="test", help="split of the held-out classes (default: %(default)s)")
    for name, default, help in (
        ("ways", 5, "classes an episode"),
        ("shots", 1, "examples of each class"),
        ("queries", 15, "images of each class to be told apart"),
        ("episodes", 600, "episodes"),
        ("seed", 0, "seed of the episodes"),
    ):
        fewshot.add_argument(f"--{name}", type=int, default=default, help=f"{help} (default: %(default)s)")
    fewshot.add_argument("--retrieval", action="store_true", help="also rank all images for each and measure the ranks")
    _add_device(fewshot)
    _add_sections(fewshot, words, only=("data",))

    compare = _command(commands, "compare", _compare, "put finished evaluations side by side, with paired differences")
    compare.add_argument(
        "evaluations", nargs="+", metavar="EVALUATION",
        help="run's folder, evaluation's folder or evaluation.json, optionally name=FILE; the first is the old one",
    )  # fmt: skip
    compare.add_argument(
        "--fail-if", action="append", default=[], metavar="CONDITION",
        help="exit with 3 if this is so of any other model against the first, such as 'worst_group_accuracy falls by "
        "0.01' or 'energy_on_cue rises'; may be given several times",
    )  # fmt: skip
    compare.add_argument("--output", default="comparison.html", help="page to write (default: %(default)s)")

    audit = _command(commands, "audit", _audit, "find out what a saved model leans on: the object, a cue or the place")
    audit.add_argument("model", metavar="MODEL", help="saved folder, run folder or Hub id")
    audit.add_argument("data", metavar="DATA", help="folder, Hub dataset id, or 'shapes' for the embedded dataset")
    audit.add_argument(
        "--output", type=_new_folder, default="audit", help="folder for page and results (default: %(default)s)"
    )
    audit.add_argument("--split", default="test", help="split that is looked at (default: %(default)s)")
    audit.add_argument("--places", help="split that other places are taken from, such as train; the same if not given")
    audit.add_argument(
        "--map", default="model",
        help="map that is looked at: model, its own (the default), or one of " + maps,
    )  # fmt: skip
    audit.add_argument("--groups", nargs="+", help="columns by whose values accuracy is told apart ('group' by itself)")
    audit.add_argument("--limit", type=int, help="so many images, spread over the split; all if not given")
    audit.add_argument("--batch-size", type=int, default=32, help="images at a time (default: %(default)s)")
    audit.add_argument("--seed", type=int, default=0, help="of the images put together (default: %(default)s)")
    _add_device(audit)
    _add_sections(audit, words, only=("data",))

    repair = _command(
        commands, "repair", _repair,
        "find what a model leans on, mend it with the recipe that measured best for the data, and prove it on one page",
    )  # fmt: skip
    repair.add_argument("model", metavar="MODEL", help="saved folder or run folder; or a backbone: timm name or Hub id")
    repair.add_argument(
        "--output", type=_new_folder, default="repair", help="folder for page, models and audits (default: %(default)s)"
    )
    repair.add_argument(
        "--goal", default="accuracy", choices=("accuracy", "map", "parts"),
        help="accuracy, where a shortcut lies too; map, on the object; parts, for fine-grained classes (default: accuracy)",
    )  # fmt: skip
    repair.add_argument("--recipe", help="YAML file or shipped config to train, in place of what is recommended")
    repair.add_argument("--limit", type=_positive, help="audit so many test images only, spread over the split")
    _add_sections(repair, words)

    explain = _command(commands, "explain", _explain, "write images, or videos, with the model's map drawn over them")
    explain.add_argument("model", metavar="MODEL", help="saved folder, run folder or Hub id")
    explain.add_argument(
        "images",
        nargs="+",
        metavar="IMAGE",
        help="image files or folders; of a model of clips videos, written as mp4 and gif",
    )
    explain.add_argument(
        "--output", type=_new_folder, default="explained", help="folder to write to (default: %(default)s)"
    )
    explain.add_argument(
        "--method", default="auto",
        help="auto (the model's own map once trained, else grad_cam), model, or a map: " + maps,
    )  # fmt: skip
    explain.add_argument("--whole", action="store_true", help="look at the whole photograph, not at its middle")
    _add_device(explain)

    edit = _command(
        commands, "edit", _edit, "draw a dataset's maps in the browser, worst image first, and repair the model"
    )
    edit.add_argument("model", metavar="MODEL", help="saved folder, run folder or Hub id")
    edit.add_argument("data", metavar="DATA", help="folder of images, which the drawn maps are written into")
    _add_dataset(edit)
    edit.add_argument(
        "--goal", default="accuracy", choices=("accuracy", "map", "parts"), help="of a repair (default: %(default)s)"
    )
    edit.add_argument("--recipe", help="YAML file or shipped config that a repair trains, not what is recommended")
    _add_address(edit)
    _add_device(edit)
    _add_sections(edit, words, only=("training", "evaluation"))

    serve = _command(
        commands, "serve", _serve, "a page to drop images on: predictions, several maps side by side, a map to draw"
    )
    serve.add_argument("model", metavar="MODEL", help="saved folder, run folder or Hub id")
    serve.add_argument("--data", help="folder of images: the editor of its maps, as a further page")
    _add_dataset(serve)
    _add_address(serve)
    _add_device(serve)

    space = _command(commands, "space", _space, "write a Hugging Face Space with the page of serve")
    space.add_argument("model", metavar="MODEL", help="saved folder, which is copied, or Hub id, fetched there")
    space.add_argument("folder", metavar="FOLDER", help="folder to write, which holds nothing yet")
    space.add_argument("--title", help="of the Space (default: the model's name)")

    inspect = _command(commands, "inspect", _inspect, "say what a saved model is: backbone, site, head, classes, size")
    inspect.add_argument(
        "model", metavar="MODEL", help="saved folder, run folder or Hub id; of the latter no weight is fetched"
    )
    inspect.add_argument("--revision", help="branch, tag or commit of a Hub id")

    push = _command(
        commands, "push", _push, "send models to the Hub with a card; a config is trained and judged before"
    )
    push.add_argument("sources", nargs="+", metavar="SOURCE", help="saved model, a run's folder, or a config")
    push.add_argument("--to", required=True, metavar="USER/NAME", help="repo; {name} in it is each source's own name")
    push.add_argument("--private", action="store_true", help="make the repo private")
    push.add_argument("--revision", help="branch to push to (default: main)")
    push.add_argument("--create-pr", action="store_true", help="open a pull request instead of writing to the branch")
    push.add_argument("--message", default="Push with attention_refine", help="of the commit (default: %(default)s)")
    push.add_argument("--max-shard-size", default="5GB", help="split larger weights (default: %(default)s)")
    push.add_argument("--without-training-layers", action="store_true", help="leave out what only training needs")
    push.add_argument("--licence", help="of the weights, as the Hub writes it: apache-2.0, cc-by-4.0, ...")
    _add_sections(push, words)

    pull = _command(commands, "pull", _pull, "copy a model from the Hub into a folder, checked")
    pull.add_argument("model", metavar="MODEL", help="Hub id, optionally with @revision")
    pull.add_argument("folder", help="folder to copy into")
    pull.add_argument("--revision", help="branch, tag or commit")

    backbones = _command(
        commands, "backbones", _backbones, "which networks can be wrapped and where the map acts, found by running"
    )
    backbones.add_argument("--filter", default="", help="only networks whose name holds this text, such as timm/swin")
    return parser


def _map_names(words: list[str]) -> str:
    """The maps there are, for help; not looked up for commands without one, as torch takes seconds to import."""
    if not {"audit", "explain"} & set(words):
        return "(see --help)"
    from .maps import list_maps

    return ", ".join(list_maps())


def _command(commands: Any, name: str, run: Any, help: str) -> argparse.ArgumentParser:
    # Without abbreviations: --training.epoch would be taken for --training.epochs, and start.
    command = commands.add_parser(name, allow_abbrev=False, help=help, description=help[0].upper() + help[1:] + ".")
    command.set_defaults(run=run)
    return command


def _add_device(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--device", help="cpu, cuda, cuda:1, ... (default: cuda where there is one, else cpu)")


def _add_dataset(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--split", default="train", help="split whose maps are edited (default: %(default)s)")
    parser.add_argument(
        "--limit",
        type=_positive,
        default=200,
        help="audit so many images, the rest stand behind (default: %(default)s)",
    )
    parser.add_argument(
        "--output", type=_new_folder, default="edit", help="folder for audit and repairs (default: %(default)s)"
    )


def _add_address(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--host", default="127.0.0.1", help="address to listen at; 0.0.0.0 lets others in (default: %(default)s)"
    )
    parser.add_argument("--port", type=int, default=7860, help="0 for a free one (default: %(default)s)")
    parser.add_argument("--open", action="store_true", help="open the page in the browser")


def _device(given: str | None) -> torch.device:
    """The device named on the command line, or the one to take when none is.

    Raises:
        ValueError: it does not exist here.
    """
    import torch

    there = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        return torch.empty(0, device=given or there).device
    except (RuntimeError, AssertionError) as error:  # PyTorch built without CUDA asserts
        reason = str(error).splitlines()[0]
        raise ValueError(f"--device {given!r} cannot be used ({reason}); without --device this is {there!r}") from error


def _version() -> str:
    from .version import __version__

    return __version__


def _add_sections(parser: argparse.ArgumentParser, words: list[str], only: tuple[str, ...] | None = None) -> None:
    """An option for every field of the recipe's sections; one that is not given leaves the file's value.

    None where the command is not among the words of the command line: the recipe takes seconds to import.
    """
    if parser.prog.split()[-1] not in words:
        return
    from .recipe import Recipe

    for section, kind in Recipe.sections().items():
        if only and section not in only:
            continue
        group = parser.add_argument_group(section)
        hints = typing.get_type_hints(kind)
        for each in fields(kind):
            default = each.default if each.default is not MISSING else each.default_factory()
            group.add_argument(
                f"--{section}.{each.name}",
                dest=f"{section}.{each.name}",
                metavar="VALUE",
                default=argparse.SUPPRESS,
                type=partial(_value, hints[each.name]),
                help=f"{each.metadata['help']}{_listed(each.metadata)} (default: {default})".replace("%", "%%"),
            )


def _listed(metadata: Mapping[str, Any]) -> str:
    """The names that an option takes, with those of one's own."""
    return f"; {', '.join(metadata['names']())}" if "names" in metadata else ""


def _value(hint: Any, text: str) -> Any:
    """The value of an option's field from the words that were typed."""
    from .core.typed_words import value_of

    try:
        return value_of(text, hint)
    except yaml.YAMLError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is neither a list [a, b] nor keys and values {{a: 1}}") from error


def _unknown(left: list[str]) -> str:
    """What to say of words that are no options."""
    from .core.options import suggestion
    from .recipe import Recipe

    word = next((each for each in left if each.startswith("-")), left[0]).partition("=")[0]
    section, dot, name = word.lstrip("-").partition(".")
    kind = Recipe.sections().get(section)
    if dot and kind is not None:
        return f"unknown option {word}: {suggestion(name, kind)}"
    found = [f"--{at}.{f.name}" for at, each in Recipe.sections().items() for f in fields(each) if f.name == section]
    found += [f"--{at}.{each.KNOWN_AS[section]}" for at, each in Recipe.sections().items() if section in each.KNOWN_AS]
    hint = f": did you mean {found[0]}?" if found and word.startswith("-") else ""
    return f"unrecognized arguments: {' '.join(left)}{hint}"


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


def _check(arguments: argparse.Namespace) -> None:
    from .data.checking import check

    names = ("label_column", "image_column", "group_column", "box_format", "mask_values", "void", "revision", "media")
    found = check(arguments.source, **{name: getattr(arguments, name) for name in names})
    print(found)
    if found.problems:
        raise ValueError(f"{arguments.source} is not ready to train on: see the problems above")


def _finetune(arguments: argparse.Namespace) -> None:
    from .recipe import Recipe, run, shipped, shipped_lines

    if arguments.list or arguments.config is None:
        print("\n".join(shipped_lines()))
        if not arguments.list:
            raise ValueError("name a YAML file or one of the shipped configs above")
        return
    done = run(Recipe.load(shipped(arguments.config), _overrides(arguments)))
    if int(os.environ.get("RANK", 0)) > 0:  # of several processes one prints
        return
    if done.evaluation is not None:
        print(done.evaluation)
    print(f"model: {done.model_path}\nreport: {done.report_path}")


def _evaluate(arguments: argparse.Namespace) -> None:
    from .hub import load
    from .recipe import Recipe, judge, load_split, merged, read_yaml, shipped
    from .report import galleries, strips, write_report

    values = read_yaml(shipped(arguments.config)) if arguments.config else {}
    values = merged({key: values.get(key) or {} for key in ("data", "evaluation")}, _overrides(arguments))
    recipe = Recipe.from_dict(values, where=arguments.config or "command line")
    output = Path(arguments.output)
    device = _device(arguments.device)
    models, evaluations = {}, {}
    for name, path in _named(arguments.models).items():
        models[name] = load(_model_folder(path), device=device)
        split = _limited(load_split(recipe.data, arguments.split, models[name].labels), arguments.limit)
        evaluations[name] = judge(recipe, models[name], split, output / name)
        print(f"{name}\n{evaluations[name]}\n")
    report = write_report(
        output / "report.html",
        evaluations,
        galleries=galleries(models, split, evaluations),
        strips=strips(models, split),
        title=f"{' and '.join(models)} on {recipe.data.source}, {arguments.split}",
    )
    print(f"report: {report}")


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)


def _new_folder(text: str) -> str:
    if os.path.isfile(text):
        raise argparse.ArgumentTypeError(f"{text!r} is a file; name a folder, which is made where it is not there")
    return text


def _limited(split: Any, limit: int | None) -> Any:
    """At most ``limit`` rows, evenly spread, the same at every call: a folder lists class after class."""
    if limit is None or limit >= len(split):
        return split
    return split.select([row * len(split) // limit for row in range(limit)])


def _fewshot(arguments: argparse.Namespace) -> None:
    from .data import load_dataset
    from .evaluation import few_shot, retrieval
    from .hub import load
    from .recipe import DataOptions

    options = DataOptions.from_dict(_overrides(arguments).get("data", {}))
    split = load_dataset(
        options.source, arguments.split, label_column=options.label_column, image_column=options.image_column,
        revision=options.revision,
    )  # fmt: skip
    episodes = {name: getattr(arguments, name) for name in ("ways", "shots", "queries", "episodes", "seed")}
    device = _device(arguments.device)
    for name, path in _named(arguments.models).items():
        model = load(_model_folder(path), device=device)
        print(f"{name}: {few_shot(model, split, **episodes)}")
        if arguments.retrieval:
            print(f"{name}: {retrieval(model, split, seed=arguments.seed)}")


def _compare(arguments: argparse.Namespace) -> int:
    from .evaluation import Evaluation, compare, gate
    from .evaluation.finding import evaluation_files
    from .report import write_report

    given = _named(arguments.evaluations)
    if len(given) < 2:
        raise ValueError("compare needs at least two evaluations of the same images")
    files, judged = {}, []
    for name, path in given.items():
        for which, file in evaluation_files(path).items():
            called = f"{name} ({which})" if which else name
            files[called] = file
            if which != "last":
                judged.append(called)
    evaluations = {name: Evaluation.from_json(file) for name, file in files.items()}
    comparison = compare(evaluations)
    failed = gate(comparison, arguments.fail_if, judged[1:])
    print(comparison)
    print(f"report: {write_report(Path(arguments.output), evaluations, title=' and '.join(given))}")
    for sentence in failed:
        print(f"attention-refine: {sentence}", file=sys.stderr)
    return 3 if failed else 0


def _audit(arguments: argparse.Namespace) -> None:
    from .auditing import audit
    from .hub import load
    from .recipe import DataOptions, load_split

    model = load(_model_folder(arguments.model), device=_device(arguments.device))
    options = DataOptions.from_dict(_overrides(arguments).get("data", {}) | {"source": arguments.data})
    split = load_split(options, arguments.split, model.labels)
    places = None
    if arguments.places not in (None, arguments.split):
        places = load_split(options, arguments.places, model.labels)
    output = Path(arguments.output)
    found = audit(
        model, split, output, places=places, map=arguments.map, groups=arguments.groups, limit=arguments.limit,
        batch_size=arguments.batch_size, seed=arguments.seed, title=f"Audit of {arguments.model}",
    )  # fmt: skip
    print(f"{found}\n\nreport: {output / 'audit.html'}")


def _repair(arguments: argparse.Namespace) -> None:
    from .repairing import repair

    overrides = _overrides(arguments)
    source = overrides.get("data", {}).get("source")
    if source is None:
        raise ValueError("name the images to repair with: --data.source FOLDER ('shapes' for the embedded dataset)")
    if "output_dir" in overrides.get("training", {}):
        raise ValueError("repair writes to before/ and after/ of --output: give that in place of --training.output_dir")
    if {"backbone", "checkpoint"} & set(overrides.get("model", {})):
        raise ValueError("the model to repair is the first argument: leave --model.backbone and --model.checkpoint out")
    done = repair(
        arguments.model, source, arguments.output, goal=arguments.goal, recipe=arguments.recipe, overrides=overrides,
        limit=arguments.limit,
    )  # fmt: skip
    print(f"\n{done}")


def _model_folder(given: str) -> str:
    """A saved model, or the best one (else the last) of a run's folder."""
    from .hub import CONFIG

    places = [Path(given) / name for name in ("", "best", "last")]
    return str(next((place for place in places if (place / CONFIG).is_file()), given))


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

    from .data import DataError
    from .hub import load

    output = Path(arguments.output)
    model = load(_model_folder(arguments.model), device=_device(arguments.device))
    clips = len(model.preprocessing["input_size"]) == 4
    files = [file for given in arguments.images for file in _image_files(Path(given), output, clips)]
    written = _pictures(list(dict.fromkeys(files)), output, (".mp4", ".gif") if clips else (".png",))
    output.mkdir(parents=True, exist_ok=True)
    broken: list[Path] = []
    for file, pictures in tqdm(written.items(), desc="explaining", disable=len(written) < 2):
        try:
            found = model.show(file, method=arguments.method, whole=arguments.whole)
        except DataError as error:
            if len(written) == 1:
                raise
            broken.append(file)
            tqdm.write(f"attention-refine: {error}", file=sys.stderr)
            continue
        for path in pictures:
            found.save(path)
        tqdm.write(f"{file}: {found.caption} -> {', '.join(map(str, pictures))}")
    if len(written) > 1:
        print(f"{len(written) - len(broken)} of {len(written)} {'videos' if clips else 'images'} explained in {output}")
    if broken:
        raise ValueError(
            f"{len(broken)} of {len(written)} images could not be explained: {', '.join(map(str, broken))}"
        )


def _pictures(files: list[Path], output: Path, endings: tuple[str, ...]) -> dict[Path, list[Path]]:
    """What is written for each image.

    Raises:
        ValueError: a picture would take the place of one of the images, or of a file that is not ours.
    """
    from .explanation import is_explanation

    found: dict[Path, list[Path]] = {}
    taken: set[str] = set()
    originals = {file.resolve() for file in files}
    for file in files:
        name = file.stem
        while name in taken:  # a/cat.jpg and b/cat.jpg
            name += "_"
        taken.add(name)
        found[file] = [output / f"{name}{ending}" for ending in endings]
        for path in found[file]:
            if path.resolve() in originals or path.exists() and not is_explanation(path):
                raise ValueError(
                    f"{path} is there, and is no picture of explain: give another folder, --output explained"
                )
    return found


def _image_files(path: Path, output: Path, clips: bool = False) -> list[Path]:
    """An image (a video, for a model of clips), or those of a folder, without masks, hidden ones and pictures of explain."""
    from .data.folders import left_out_lines
    from .data.listing import list_folder
    from .data.video import MOVING
    from .explanation import is_explanation

    if path.is_file():
        return [path]
    if not path.is_dir():
        raise ValueError(f"{path} does not exist")
    listing = list_folder(path)
    wanted, others = listing.images, listing.films
    if clips:
        moving = [file for file in listing.images if Path(file.path).suffix.lower() in MOVING]
        wanted, others = sorted([*listing.films, *moving]), [file for file in listing.images if file not in moving]
    files = [Path(file.path) for file in wanted]
    if output.resolve() == path.resolve() or any(
        file.resolve().parent == output.resolve() and not is_explanation(file) for file in files
    ):
        raise ValueError(
            f"--output {output} is a folder of the images, among which the pictures would lie: give another, such as "
            f"{path / 'explained'}"
        )
    ours = [file for file in files if is_explanation(file)]
    reasons = {
        "masks and maps": [file.path for side in listing.sides.values() for file in side],
        "images" if clips else "videos": [file.path for file in others],
        "pictures that explain wrote": list(map(str, ours)),
    }
    left_out = {reason: found for reason, found in {**listing.left_out, **reasons}.items() if found}
    files, lines = [file for file in files if file not in ours], left_out_lines(left_out, path)
    if not files:
        kinds = ".mp4, .webm, .avi, .mov, .mkv or .gif" if clips else ".jpg, .png, .gif, .webp or .tif"
        what = f"videos, such as {kinds}" if clips else f"images that can be opened, such as {kinds}"
        raise ValueError(f"{path} holds no {what}" + (f"; it holds {'; '.join(lines)}" if lines else ""))
    for line in lines:
        print(f"attention-refine: left out of {path}: {line}", file=sys.stderr)
    return files


def _edit(arguments: argparse.Namespace) -> None:
    from .app import edit

    overrides = _overrides(arguments)
    if "output_dir" in overrides.get("training", {}):
        raise ValueError("repairs write to folders of --output: give that in place of --training.output_dir")
    edit(
        _model_folder(arguments.model), arguments.data, arguments.output, split=arguments.split, limit=arguments.limit,
        goal=arguments.goal, recipe=arguments.recipe, overrides=overrides, device=_device(arguments.device),
        host=arguments.host, port=arguments.port, open_page=arguments.open,
    )  # fmt: skip


def _serve(arguments: argparse.Namespace) -> None:
    from .app import edit, serve

    model, device = _model_folder(arguments.model), _device(arguments.device)
    address = {"host": arguments.host, "port": arguments.port, "open_page": arguments.open}
    if arguments.data is None:
        serve(model, device=device, **address)
    else:
        edit(
            model, arguments.data, arguments.output, split=arguments.split, limit=arguments.limit, device=device,
            first="live", **address,
        )  # fmt: skip


def _space(arguments: argparse.Namespace) -> None:
    from .app import write_space

    folder = write_space(_model_folder(arguments.model), arguments.folder, title=arguments.title)
    print(f"space: {folder}\nsend it: hf upload USER/NAME {folder} --repo-type space")


def _inspect(arguments: argparse.Namespace) -> None:
    from .inspection import describe

    print(describe(_model_folder(arguments.model), revision=arguments.revision))


def _push(arguments: argparse.Namespace) -> None:
    from .hub import Card
    from .recipe.publish import publish

    if len(arguments.sources) > 1 and "{name}" not in arguments.to:
        raise ValueError(f"{len(arguments.sources)} models cannot all be called {arguments.to}; write user/{{name}}")
    failed = []
    for source in arguments.sources:
        repo_id = arguments.to.replace("{name}", _source_name(source))
        try:
            done = publish(
                source, repo_id, _overrides(arguments), Card(licence=arguments.licence),
                private=arguments.private or None, revision=arguments.revision, create_pr=arguments.create_pr,
                commit_message=arguments.message, max_shard_size=arguments.max_shard_size,
                training_layers=not arguments.without_training_layers,
            )  # fmt: skip
        except (ValueError, OSError, RuntimeError) as error:
            if len(arguments.sources) == 1 or arguments.traceback:
                raise
            failed.append(source)
            print(f"{source}: {' '.join(str(error).split())}", file=sys.stderr)
        else:
            print(f"{source}: {done.pr_url or done.commit_url}")
    if failed:
        raise ValueError(f"{len(failed)} of {len(arguments.sources)} were not pushed: {', '.join(failed)}")


def _source_name(source: str) -> str:
    """What a run or config is called: best and last are its models, not its name."""
    path = Path(source).resolve()
    return path.parent.name if path.name in ("best", "last") else path.stem if path.suffix == ".yaml" else path.name


def _pull(arguments: argparse.Namespace) -> None:
    from .hub import pull

    print(f"model: {pull(arguments.model, arguments.folder, revision=arguments.revision)}")


def _backbones(arguments: argparse.Namespace) -> None:
    from .support_table import markdown, rows

    table = 0
    for line in markdown(rows(arguments.filter)):
        table += line.startswith("|")
        print(line, flush=True)
    if table <= 2:  # its head alone
        raise ValueError(f"no network's name holds {arguments.filter!r}; names are such as timm/resnet50")


if __name__ == "__main__":
    sys.exit(main())
