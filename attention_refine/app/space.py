"""A Hugging Face Space from a model: the live page, in the four files that a Docker Space is made of."""

from __future__ import annotations

import re
from pathlib import Path

import yaml

from attention_refine.core.files import atomic_file
from attention_refine.hub import load

PORT = 7860  # where Spaces look by default; said in the front matter all the same
INSIDE = "model"  # folder of a copied model
COLOURS = ("blue", "indigo")

APP = '''"""The live page of {title}: drop images, see several maps side by side, draw one and see the prediction follow."""

from attention_refine.app import serve

if __name__ == "__main__":
    serve({model!r}, host="0.0.0.0", port={port})
'''

DOCKERFILE = """\
FROM python:3.12-slim
RUN useradd --create-home --uid 1000 user
USER user
ENV PATH="/home/user/.local/bin:$PATH" HF_HOME=/home/user/.cache/huggingface PYTHONUNBUFFERED=1
WORKDIR /home/user/app
COPY --chown=user requirements.txt .
RUN pip install --no-cache-dir --user -r requirements.txt
COPY --chown=user . .
CMD ["python", "app.py"]
"""

# Spaces without a GPU: PyTorch's CPU wheels are a tenth of the size.
REQUIREMENTS = """\
--extra-index-url https://download.pytorch.org/whl/cpu
attention-refine[app]=={version}
"""

README = """\
# {title}

Drop an image: what the model takes it for, several maps side by side, and a map of your own in place of the model's. Nothing that is dropped is kept.

Made with [attention_refine]({home}) by `attention-refine space`. To run it here: `pip install "attention-refine[app]" && python app.py`.
"""
HOME = "https://pypi.org/project/attention-refine/"


def write_space(model: str | Path, folder: str | Path, *, title: str | None = None) -> Path:
    """Write ``app.py``, ``requirements.txt``, ``Dockerfile`` and ``README.md`` into a folder that is a Space when pushed.

    A model in a folder is copied into ``model/``; one on the Hub is fetched by the Space when it starts.

    Args:
        model: folder of a saved model, or a Hub id.
        folder: made where it does not exist; must hold nothing else.
        title: of the Space; the model's name by default.

    Returns:
        The folder.

    Raises:
        ValueError: the folder holds something, or there is no such model.
    """
    from attention_refine import __version__

    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"{folder} is not empty: name a new folder, so that nothing else is sent to the Hub with it")
    loaded = load(model)
    local = Path(model).is_dir()
    title = title or (Path(model).resolve().name if local else str(model).partition("@")[0].rpartition("/")[2])
    folder.mkdir(parents=True, exist_ok=True)
    if local:
        loaded.save_pretrained(folder / INSIDE)
    front = {
        "title": title, "emoji": "🔎", "colorFrom": COLOURS[0], "colorTo": COLOURS[1], "sdk": "docker", "app_port": PORT,
        "pinned": False, "short_description": "See what a vision model looks at, and draw it right",
    }  # fmt: skip
    if not local:
        front["models"] = [str(model).partition("@")[0]]
    texts = {
        "app.py": APP.format(title=re.sub(r'["\\\n]', "", title), model=INSIDE if local else str(model), port=PORT),
        "Dockerfile": DOCKERFILE,
        "requirements.txt": REQUIREMENTS.format(version=__version__),
        "README.md": f"---\n{yaml.safe_dump(front, sort_keys=False, allow_unicode=True)}---\n\n"
        + README.format(title=title, home=HOME),
    }
    if local:
        # The Hub refuses large files that are not in its large-file storage.
        texts[".gitattributes"] = "*.safetensors filter=lfs diff=lfs merge=lfs -text\n"
    for name, text in texts.items():
        with atomic_file(folder / name) as path:
            path.write_text(text, encoding="utf-8")
    return folder
