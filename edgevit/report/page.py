"""The frame of every HTML report: one file without network access, for light and dark, phones and print."""

from __future__ import annotations

from html import escape

_STYLE = """
:root { color-scheme: light dark; --ink: #1b1f24; --soft: #5b6570; --line: #d9dee3; --paper: #ffffff; --card: #f5f7f9;
  --bar: #3b7dd8; --warm: #d9822b; --bad: #c23b3b; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e9ec; --soft: #9aa5b1; --line: #333b44; --paper: #14181d;
  --card: #1c2229; --bar: #6ba3f0; --warm: #e8a25c; --bad: #ec7272; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 62rem; padding: 1.5rem 1rem 3rem; background: var(--paper); color: var(--ink);
  font: 16px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.5rem; line-height: 1.25; margin: 0 0 .25rem; } h2 { font-size: 1.1rem; margin: 2rem 0 .5rem; }
p { margin: .4rem 0; } .soft { color: var(--soft); } .num { text-align: right; font-variant-numeric: tabular-nums; }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(9.5rem, 1fr)); gap: .75rem; margin: 1rem 0; }
.card { background: var(--card); border-radius: .5rem; padding: .7rem .9rem; }
.card b { display: block; font-size: 1.3rem; }
.scroll { overflow-x: auto; } .scroll svg { min-width: 44rem; }
table { border-collapse: collapse; width: 100%; font-size: .9rem; }
th, td { padding: .3rem .5rem; border-bottom: 1px solid var(--line); text-align: left; white-space: nowrap; }
th.num { text-align: right; } svg { width: 100%; height: auto; display: block; } svg text { fill: var(--ink); }
svg .soft { fill: var(--soft); } code { font: .88em ui-monospace, monospace; }
footer { margin-top: 2.5rem; color: var(--soft); font-size: .85rem; }
@media print { body { max-width: none; } .card { border: 1px solid var(--line); } }
"""


def page(title: str, body: str, footer: str) -> str:
    """A complete HTML document; ``body`` is HTML, all other arguments are text."""
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n<h1>{escape(title)}</h1>\n"
        f"{body}\n<footer>{escape(footer)}</footer>\n</body>\n</html>\n"
    )


def cards(facts: dict[str, str]) -> str:
    """Single figures side by side, each with its name and value."""
    inside = "".join(
        f'<div class="card"><span class="soft">{escape(name)}</span><b>{escape(value)}</b></div>'
        for name, value in facts.items()
    )
    return f'<div class="cards">{inside}</div>'


def table(columns: dict[str, bool], rows: list[list[str]]) -> str:
    """An HTML table; columns say whether they hold numbers, cells are text."""
    kinds = [' class="num"' if number else "" for number in columns.values()]
    head = "".join(f"<th{kind}>{escape(name)}</th>" for name, kind in zip(columns, kinds, strict=True))
    body = "".join(
        "<tr>" + "".join(f"<td{kind}>{escape(cell)}</td>" for cell, kind in zip(row, kinds, strict=True)) + "</tr>\n"
        for row in rows
    )
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>\n{body}</tbody></table></div>'
