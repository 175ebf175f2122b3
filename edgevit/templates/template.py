"""The app templates: one folder of `apps/` each, with a `template.toml`."""

from __future__ import annotations

import tomllib
from functools import lru_cache
from pathlib import Path
from typing import Literal

from pydantic import ValidationError

from edgevit.core.files import shipped_folder
from edgevit.errors import BadFile, UnknownName
from edgevit.schema.strict import Strict

FILE = "template.toml"


class TemplateInfo(Strict):
    """The content of one ``template.toml``.

    Attributes:
        title: its name in lists.
        takes: what the app is built around.
        backends: formats of bundles that it runs; empty where `takes` is a plan.
        place: where the bundle or plan goes, relative to the app.
        fill: files in which ``edgevit-app`` becomes the app's own name, and ``edgevit_app`` the same as an identifier:
            a phone takes two apps of one identifier for two versions of one.
        needs: what has to be installed before.
        next: the commands that start it, from inside its folder.
        tested: how far edgevit's own tests go.
    """

    title: str
    takes: Literal["bundle", "plan"]
    backends: tuple[str, ...] = ()
    place: str
    fill: tuple[str, ...] = ()
    needs: str
    next: tuple[str, ...]
    tested: str


class Template(Strict):
    """A template and its folder."""

    name: str
    folder: Path
    info: TemplateInfo


@lru_cache(maxsize=1)
def templates() -> dict[str, Template]:
    """All templates, by name.

    Raises:
        BadFile: a ``template.toml`` is not valid.
    """
    found = {}
    for path in sorted(shipped_folder("apps").glob(f"*/{FILE}")):
        try:
            info = TemplateInfo.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
        except (tomllib.TOMLDecodeError, ValidationError) as error:
            raise BadFile(f"the template is not valid: {error}", where=str(path)) from error
        found[path.parent.name] = Template(name=path.parent.name, folder=path.parent, info=info)
    return found


def find_template(name: str) -> Template:
    """The template with a name.

    Raises:
        UnknownName: there is none of that name.
    """
    if name not in templates():
        raise UnknownName("template", name, templates(), listing="edgevit app list")
    return templates()[name]
