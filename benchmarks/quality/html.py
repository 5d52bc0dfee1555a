"""A bundle's measured quality as one HTML file that needs nothing else: no script, no request, images inside."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from html import escape

from anycost.benchmarks.quality.report import method, why
from anycost.benchmarks.quality.tables import (
    MISSING,
    Column,
    Table,
    engine_table,
    measure_name,
    network_tables,
    subnet_table,
)
from anycost.runtime.budget import Budget
from anycost.runtime.choose import Row
from anycost.runtime.quality import Quality

# Nothing is fetched or run, even if a name in a damaged file got past the escaping.
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
_STYLE = """
:root { color-scheme: light dark; --ink: #1b1f24; --soft: #57606a; --page: #ffffff; --band: #f4f6f8; --line: #d0d7de;
  --mark: #0b5cad; --markbg: #e7f1fb; --good: #116329; --bad: #a40e26; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e9ec; --soft: #a3adb8; --page: #14181d; --band: #1d2329;
  --line: #3a434d; --mark: #7fb8f5; --markbg: #16304d; --good: #6fd08c; --bad: #ff8f8f; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.5rem 1rem 3rem; max-width: 88rem; background: var(--page); color: var(--ink);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Liberation Sans", Arial, sans-serif; }
h1 { font-size: 1.6rem; line-height: 1.25; margin: 0 0 .25rem; }
h2 { font-size: 1.2rem; margin: 2.2rem 0 .5rem; }
h3 { font-size: 1rem; margin: 1.2rem 0 .3rem; }
p, dl { max-width: 62rem; margin: .5rem 0; overflow-wrap: anywhere; }
.soft, caption { color: var(--soft); }
.chosen { border-left: 4px solid var(--mark); background: var(--markbg); padding: .7rem 1rem; }
.chosen strong { font-size: 1.15rem; overflow-wrap: anywhere; }
figure { margin: .5rem 0; max-width: 75rem; }
figure img { display: block; max-width: 100%; height: auto; background: #fff; border: 1px solid var(--line);
  border-radius: 6px; }
figure .chart { width: 56rem; }
figcaption { color: var(--soft); font-size: .9rem; margin-top: .3rem; }
.box { overflow-x: auto; border: 1px solid var(--line); border-radius: 6px; margin: .6rem 0 1rem; }
.box:focus-visible { outline: 3px solid var(--mark); }
table { border-collapse: collapse; width: 100%; font-size: .8rem; font-variant-numeric: tabular-nums; }
caption { text-align: left; padding: .5rem .7rem; }
th, td { padding: .25rem .5rem; text-align: right; white-space: nowrap; border-top: 1px solid var(--line); }
thead th { background: var(--band); vertical-align: bottom; white-space: normal; min-width: 3.5rem; }
th:first-child { text-align: left; position: sticky; left: 0; background: var(--page); font-weight: 600; }
thead th:first-child { background: var(--band); }
tbody tr:nth-child(even) > * { background: var(--band); }
tbody tr.picked > * { background: var(--markbg); font-weight: 700; }
.pass { color: var(--good); } .fail { color: var(--bad); font-weight: 700; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .2rem 1rem; }
dt { font-weight: 600; } dd { margin: 0; }
@media (max-width: 40rem) { dl { display: block; } dd { margin: 0 0 .5rem; } h1 { font-size: 1.35rem; } }
@page { size: A4; margin: 12mm; }
@page wide { size: A4 landscape; }
@media print {
  :root { color-scheme: light; --ink: #000; --soft: #444; --page: #fff; --band: #f1f1f1; --line: #bbb; --mark: #0b5cad;
    --markbg: #e7f1fb; --good: #116329; --bad: #a40e26; }
  body { padding: 0; max-width: none; font-size: 10pt; }
  .box { overflow: visible; border: 0; }
  .wide { page: wide; }
  table { font-size: 7.2pt; }
  th, td { padding: .12rem .22rem; white-space: normal; }
  tbody th, .pass, .fail { white-space: nowrap; }
  thead th { min-width: 0; }
  th:first-child { position: static; }
  tr, figure, .chosen { break-inside: avoid; }
  h2, h3 { break-after: avoid; }
  figure img { max-height: 240mm; max-width: 100%; width: auto; }
  * { -webkit-print-color-adjust: exact; print-color-adjust: exact; }
}
"""


def page(quality: Quality, rows: Sequence[Row], budget: Budget, pareto_png: bytes, sheet_png: bytes, title: str) -> str:
    """The whole document. pareto_png, sheet_png: of ``plot.pareto`` and ``report.sheet``; empty leaves that section out."""
    subnets, engines, networks = (
        subnet_table(quality, rows),
        engine_table(quality, rows, speed=True),
        network_tables(quality),
    )
    parts = [
        f"<header><h1>{_text(title)}</h1>{_facts(quality, rows) if quality.subnets else ''}</header>",
        "<main>",
        _section("Chosen engine", _choice(quality, rows, budget)) if quality.subnets else "",
        _section("Quality and latency", _pareto(quality, pareto_png)) if pareto_png else "",
        _section("Sub-networks", _table(subnets), "wide") if subnets.rows else "",
        _section("Engines", _table(engines), "wide") if engines.rows else "",
        _section("Other networks", "".join(map(_table, networks))) if networks else "",
        _section("The same seeds in every sub-network", _sheet(sheet_png)) if sheet_png else "",
        _section("How to read this", _guide([table for table in (subnets, engines, *networks) if table.rows])),
        _section("How it was measured", f"<p>{_text(method(quality, rows))}</p>{_origin(quality)}"),
        "</main>",
    ]
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{_text(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n"
        + "\n".join(part for part in parts if part)
        + "\n</body>\n</html>\n"
    )


def _text(text: str) -> str:
    return escape(" ".join(text.split()), quote=True)


def _section(title: str, content: str, name: str = "part") -> str:
    return f'<section class="{name}"><h2>{_text(title)}</h2>\n{content}</section>'


def _facts(quality: Quality, rows: Sequence[Row]) -> str:
    facts = [
        f"{len(quality.subnets)} sub-networks",
        f"{len(rows)} engines",
        f"{quality.images} images of each",
        f"quality by {quality.measure}",
    ]
    return f'<p class="soft">{_text(", ".join(facts))}</p>'


def _choice(quality: Quality, rows: Sequence[Row], budget: Budget) -> str:
    chosen = next((row for row in rows if row.chosen), None)
    name = f"<strong>{_text(chosen.engine.name)}</strong><br>" if chosen else ""
    return f'<p class="chosen">{name}{_text(why(quality, rows, budget))}</p>'


def _pareto(quality: Quality, png: bytes) -> str:
    fd = _text(measure_name(quality))
    return _figure(
        png,
        f"Chart of {fd} against the cost of an image, one point an engine; the tables below hold its figures.",
        f"Further left is faster and further down is better. Nothing measured is both faster and better than the grey line; "
        f"bars show where {fd} falls 95 times of 100 when other images are drawn.",
        "chart",
    )


def _sheet(png: bytes) -> str:
    return _figure(
        png,
        "A grid of images: a row for each sub-network, a column for each seed.",
        "A column is one seed, a row one sub-network. Small images are enlarged without smoothing, so a pixel is a square.",
        "sheet",
    )


def _figure(png: bytes, instead: str, caption: str, name: str) -> str:
    data = base64.b64encode(png).decode()
    image = f'<img class="{name}" alt="{instead}" src="data:image/png;base64,{data}">'
    return f"<figure>{image}<figcaption>{caption}</figcaption></figure>"


def _table(table: Table) -> str:
    head = "".join(f'<th scope="col">{_heading(column)}</th>' for column in table.columns)
    body = []
    for i, (name, *cells) in enumerate(table.rows):
        picked = i == table.chosen
        mark, style = ("▶ ", ' class="picked"') if picked else ("", "")
        line = f'<th scope="row">{mark}{_text(name)}</th>' + "".join(map(_cell, cells))
        body.append(f"<tr{style}>{line}</tr>\n")
    caption = _text(table.caption)
    # The box takes the keyboard's focus, so that a wide table can be scrolled without a mouse.
    return (
        f'<div class="box" role="region" aria-label="{caption}" tabindex="0"><table><caption>{caption}</caption>'
        f"<thead><tr>{head}</tr></thead>\n<tbody>{''.join(body)}</tbody></table></div>\n"
    )


def _heading(column: Column) -> str:
    """The arrow stays on the line of the last word."""
    return _text(column.title).replace(" ↑", "&nbsp;↑").replace(" ↓", "&nbsp;↓")


def _cell(text: str) -> str:
    if text.startswith("pass "):
        return f'<td class="pass">✓ {_text(text)}</td>'
    if text.startswith("FAIL "):
        return f'<td class="fail">✗ {_text(text)}</td>'
    return f"<td>{_text(text)}</td>"


def _guide(tables: Sequence[Table]) -> str:
    """In plain words: what is compared with what, and each column of each table."""
    first = (
        "A sub-network is a smaller cut of one full network: fewer channels or a smaller image, so quicker and less like the "
        "full one. An engine is a sub-network compiled for one program. The first table says what a smaller sub-network costs "
        "in quality; the second says whether compiling changed anything, which it should not. "
        f"↑ means that higher is better, ↓ that lower is better, {MISSING} that it was not measured."
    )
    return f"<p>{_text(first)}</p>\n" + "".join(map(_columns, tables))


def _columns(table: Table) -> str:
    names = [f"<dt>{_heading(column)}</dt><dd>{_text(column.note)}</dd>" for column in table.columns if column.note]
    return f"<h3>{_text(table.caption)}</h3>\n<dl>{''.join(names)}</dl>\n" if names else ""


def _origin(quality: Quality) -> str:
    return f'<p class="soft">Generator: sha256 {_text(quality.source_sha256)}.</p>'
