"""Do two versions of edgevit write the same files? Compares model files byte by byte, apart from the embedded manifest.

    python tools/same_files.py BEFORE AFTER

Both are output folders of the same `edgevit export` requests, made by two versions. A file that exists on one side
only counts as different. Ends with status 1 where anything differs.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from edgevit.backends.base import find_backend
from edgevit.bundle.read import Bundle, read_bundle

MANIFEST = "manifest.json"


def bundles(folder: Path) -> dict[str, Bundle]:
    """The bundles below a folder, by their place in it."""
    return {
        path.parent.relative_to(folder).as_posix(): read_bundle(path.parent, check=False)
        for path in sorted(folder.rglob(MANIFEST))
    }


def content(bundle: Bundle) -> bytes:
    """A model file, or a package's files one after the other, without the manifest that is inside."""
    text = find_backend(bundle.manifest.target.backend).read_embedded(bundle.entry) or ""
    files = [bundle.entry] if bundle.entry.is_file() else sorted(p for p in bundle.entry.rglob("*") if p.is_file())
    return b"".join(file.read_bytes() for file in files).replace(text.encode(), b"")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("before", type=Path)
    parser.add_argument("after", type=Path)
    arguments = parser.parse_args()
    before, after = bundles(arguments.before), bundles(arguments.after)
    different = 0
    for name in sorted({*before, *after}):
        if name not in before or name not in after:
            verdict = "only " + ("before" if name in before else "after")
        else:
            first, second = content(before[name]), content(after[name])
            verdict = "same" if first == second else f"different: {len(first)} and {len(second)} bytes"
        different += verdict != "same"
        print(f"{name}: {verdict}")
    print(f"{different} of {len({*before, *after})} differ")
    raise SystemExit(bool(different))


if __name__ == "__main__":
    main()
