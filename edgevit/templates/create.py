"""Creates an app: a copy of a template with a bundle inside. Files that the user has changed are never overwritten."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

from edgevit.bundle.card import contract_lines
from edgevit.bundle.read import Bundle, read_bundle
from edgevit.bundle.replace import check_bundle_replaceable, check_plan_replaceable
from edgevit.bundle.write import publish, staging
from edgevit.errors import BadFile, CheckFailed, UsageError
from edgevit.schema.plan import FLEET, FUSION, PLAN, read_fleet, read_plan
from edgevit.schema.strict import Strict
from edgevit.templates.template import FILE, Template, find_template

RECORD = "edgevit-app.json"
_IDENTIFIER = "edgevit_app"
_NAME, _CONTRACT = "edgevit-app", "<!-- the bundle's input contract -->"
_NOT_COPIED = shutil.ignore_patterns("node_modules", "dist", "__pycache__", ".pytest_cache", ".gradle", "model", FILE)


class Record(Strict):
    """``edgevit-app.json`` in an app: the template and bundle that it was made from."""

    template: str
    edgevit: str


def new_app(template: str, source: Path, out: Path) -> Template:
    """Create an app from a template and a bundle.

    Args:
        template: its name.
        source: a bundle's folder, or a plan's, as the template takes.
        out: the app's folder, which must not be there yet or be empty.

    Raises:
        UnknownName: no such template.
        UsageError: ``out`` is in use, or the app cannot run this bundle.
        BadFile: ``source`` is no bundle or plan.
        CheckFailed: ``source`` was changed after it was written.
    """
    from importlib import metadata

    found = find_template(template)
    _check_free(out, found)
    bundle = _checked(found, source)
    with staging(out) as scratch:
        app = scratch / "app"
        shutil.copytree(found.folder, app, ignore=_NOT_COPIED)
        _copy(found, source, app / found.info.place)
        _fill(app, found, out.resolve().name, bundle)
        record = Record(template=template, edgevit=metadata.version("edgevit"))
        (app / RECORD).write_text(json.dumps(record.model_dump(), indent=1) + "\n", encoding="utf-8")
        _check_free(out, found)
        app.rename(out)  # onto an empty folder at most: a full one is an error of the system
    return found


def update_app(app: Path, source: Path) -> Template:
    """Replace the bundle or plan inside an app; no other file is touched.

    Args:
        app: a folder that `new_app` made.
        source: as for `new_app`.

    Raises:
        BadFile: no such app, or ``source`` is no bundle or plan.
        UsageError: the app cannot run this bundle.
        CheckFailed: the bundle inside the app was changed by hand, or ``source`` was.
    """
    try:
        record = Record.model_validate_json((app / RECORD).read_bytes())
    except (OSError, ValueError) as error:
        raise BadFile(f"{app} is no app of edgevit's: it has no {RECORD}", cure="edgevit app new makes one") from error
    template = find_template(record.template)
    _checked(template, source)
    place = app / template.info.place
    check = check_bundle_replaceable if template.info.takes == "bundle" else check_plan_replaceable
    if place.exists() or place.is_symlink():
        _check_own(template, place)
        check(place)
    with staging(place) as scratch:
        copy = scratch / "new"
        _copy(template, source, copy)
        publish(copy, place, check)
    return template


def _check_free(out: Path, template: Template) -> None:
    if not out.exists() and not out.is_symlink():
        return
    if out.is_dir() and not any(out.iterdir()):
        return
    bundle = template.info.takes.upper()
    cure = f"choose another folder; edgevit app update DIR {bundle} gives an app another {template.info.takes}"
    raise UsageError(f"{out} is there already; nothing was changed", cure=cure)


def _checked(template: Template, source: Path) -> Bundle | None:
    """Read the bundle or plan for an app, and refuse one that the app cannot run."""
    if template.info.takes == "plan":
        plan = read_plan(source)
        read_fleet(source / FLEET)
        for one in plan.sub_models:
            read_bundle(source / one.bundle)
        return None
    bundle = read_bundle(source)
    manifest = bundle.manifest
    backend, accepted = manifest.target.backend, template.info.backends
    if backend not in accepted:
        raise UsageError(
            f"the {template.name} app runs {' and '.join(accepted)}; this bundle is {backend}",
            where=str(source),
            cure=f"edgevit export {manifest.model.name} -t {accepted[0]}",
        )
    if manifest.output.kind == "features":
        cure = "edgevit app new fleet PLAN DIR is for a plan; or export without --output features"
        raise UsageError("the bundle gives features, not classes", where=str(source), cure=cure)
    return bundle


def _copy(template: Template, source: Path, place: Path) -> None:
    """Copy a checked bundle; of a plan, only the files that belong to it."""
    if template.info.takes == "bundle":
        shutil.copytree(source, place)
        return
    place.mkdir(parents=True)
    for name in (PLAN, FLEET, FUSION):
        shutil.copyfile(source / name, place / name)
    for one in read_plan(source).sub_models:
        shutil.copytree(source / one.bundle, place / one.bundle)


def _check_own(template: Template, place: Path) -> None:
    """Refuse to replace a bundle inside the app that was changed since it was copied."""
    try:
        _checked(template, place)
    except CheckFailed as error:
        raise CheckFailed(
            f"what the app holds was changed by hand; nothing was replaced: {error.message}",
            where=str(place),
            cure=f"move {place} away first",
        ) from error


def _identifier(slug: str) -> str:
    """A name as a part of Android's application identifiers: no hyphens, a letter first."""
    plain = slug.replace("-", "_")
    return plain if plain[0].isalpha() else f"app_{plain}"


def _fill(app: Path, template: Template, name: str, bundle: Bundle | None) -> None:
    slug = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") or _NAME
    for path in (app / one for one in template.info.fill):
        text = path.read_text(encoding="utf-8").replace(_NAME, slug).replace(_IDENTIFIER, _identifier(slug))
        path.write_text(text, encoding="utf-8")
    readme = app / "README.md"
    if bundle is not None and readme.is_file():
        lines = "\n".join(contract_lines(bundle.manifest))
        readme.write_text(readme.read_text(encoding="utf-8").replace(_CONTRACT, lines), encoding="utf-8")
