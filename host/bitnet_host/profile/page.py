"""A profile as one HTML page that needs nothing else."""

from __future__ import annotations

from html import escape

from bitnet_host.profile.plots import PLOTS, drawn
from bitnet_host.profile.report import TITLES, Report, Row

__all__ = ["page"]

_STYLE = """
:root { color-scheme: light dark; font-family: system-ui, sans-serif; }
body { max-width: 75rem; margin: 2rem auto; padding: 0 1rem; line-height: 1.4; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: 0.85rem; }
div { overflow-x: auto; }
th, td { padding: 0.2rem 0.6rem; text-align: right; border-bottom: 1px solid #8884; }
th:first-child, td:first-child { text-align: left; }
tbody + tbody { border-top: 2px solid #888; font-weight: 600; }
figure { margin: 2rem 0; background: white; color: black; padding: 0.5rem; }
svg { width: 100%; height: auto; }
"""


def page(report: Report) -> str:
    """The page. Raises BadArgument if pictures cannot be drawn."""
    pictures = []
    for name, svg in drawn(report, "svg").items():
        text = svg.decode()
        pictures.append(f'<figure role="img" aria-label="{escape(PLOTS[name][0])}">'
                        f"{text[text.index('<svg'):]}</figure>")
    title = escape(report.heading())
    return "\n".join([
        "<!doctype html>", '<html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{title}</title>", f"<style>{_STYLE}</style></head><body>",
        f"<h1>{title}</h1>", f"<p>{escape(report.closing())}</p>", *pictures,
        "<h2>All layers together</h2>", _table(report, report.steps, report.sums),
        "<h2>Each layer</h2>", _table(report, report.layers, [], layers=True),
        "</body></html>", ""])


def _table(report: Report, rows: list[Row], sums: list[Row], layers: bool = False) -> str:
    titles = (TITLES[0], "layer", *TITLES[1:]) if layers else TITLES
    head = "".join(f"<th>{escape(title)}</th>" for title in titles)
    bodies = ["".join(_line(report, row, layers) for row in part) for part in (rows, sums) if part]
    return (f"<div><table><thead><tr>{head}</tr></thead>"
            + "".join(f"<tbody>{body}</tbody>" for body in bodies) + "</table></div>")


def _line(report: Report, row: Row, layers: bool) -> str:
    cells = report.cells(row)
    if layers:
        cells.insert(1, "" if row.layer is None else str(row.layer))
    return "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in cells) + "</tr>\n"
