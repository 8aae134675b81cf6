#!/usr/bin/env python3
"""Draws how an export went: throughput over time, and what each stage was at.

  bench/report.py REPORT.json [--trace TRACE.json] [-o report.html]

REPORT.json is what `weighbridge export --report` wrote, TRACE.json what `--trace` wrote (docs/json.md). The result is
one HTML file with SVG, which needs nothing else; names in it come from the model and are escaped. A trace of any size
becomes a picture of fixed size: each track is cut into columns, whose colour is what it was at most of the time.
Needs Python only.
"""
import argparse
import json
import sys
from collections import defaultdict
from html import escape

STAGES = ["read", "transform", "write"]
COLOUR = {"read": "#3b78c3", "transform": "#d98a1f", "write": "#3f9b57", "wait": "#d7d7d7"}
LEFT, WIDTH, HEIGHT, COLUMNS = 90, 900, 180, 900
STYLE = ("body{font:14px sans-serif;margin:2em;color:#222}svg text{font-size:11px}table{border-collapse:collapse}"
         "td,th{padding:2px 12px;text-align:right}.axis{stroke:#999;fill:none}")


def steps(series):
    """Pairs of neighbours in a series, with the time between them; what takes no time is left out."""
    for a, b in zip(series, series[1:]):
        if b["seconds"] > a["seconds"]:
            yield a, b, b["seconds"] - a["seconds"]


def rates(series, key):
    """-> [(from, to, GB/s)]"""
    return [(a["seconds"], b["seconds"], (b[key] - a[key]) / t / 1e9) for a, b, t in steps(series)]


def shares(series, stage, threads):
    """-> [(from, to, share of the time in which the stage's threads were busy)]"""
    return [(a["seconds"], b["seconds"], min(1, max(0, 1 - (b["waiting"][stage] - a["waiting"][stage]) / t / threads)))
            for a, b, t in steps(series)]


def points(spans, end, most):
    """A line of steps, in the coordinates of a chart."""
    at = []
    for begin, until, value in spans:
        y = HEIGHT * (1 - value / most)
        at += [(LEFT + WIDTH * begin / end, y), (LEFT + WIDTH * until / end, y)]
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in at)


def chart(lines, end, most, unit):
    """`lines`: name -> spans"""
    out = [f'<svg viewBox="0 0 {LEFT + WIDTH + 20} {HEIGHT + 30}" width="{LEFT + WIDTH + 20}">']
    for i in range(5):
        y, x = HEIGHT * i / 4, LEFT + WIDTH * i / 4
        out.append(f'<path class="axis" d="M{LEFT} {y}H{LEFT + WIDTH}"/>'
                   f'<text x="{LEFT - 5}" y="{y + 8}" text-anchor="end">{most * (4 - i) / 4:.2f}{unit}</text>'
                   f'<text x="{x}" y="{HEIGHT + 18}" text-anchor="middle">{end * i / 4:.1f} s</text>')
    for name, spans in lines.items():
        out.append(f'<polyline id="{name}" fill="none" stroke="{COLOUR[name.split("-")[0]]}" stroke-width="2" '
                   f'points="{points(spans, end, most)}"/>')
    return "".join(out) + "</svg>"


def legend(names):
    return "<p>" + " ".join(f'<b style="color:{COLOUR[n]}">{n}</b>' for n in names) + "</p>"


def table(report):
    rows = ["<tr><th>stage</th><th>busy</th><th>waiting</th><th>busy share</th><th>GB</th><th>GB/s of work</th></tr>"]
    for name in STAGES:
        s = report["stages"][name]
        rows.append(f"<tr><td>{name}</td><td>{s['busy']:.2f} s</td><td>{s['waiting']:.2f} s</td>"
                    f"<td>{100 * s['busy'] / max(s['busy'] + s['waiting'], 1e-9):.0f} %</td>"
                    f"<td>{s['bytes'] / 1e9:.2f}</td><td>{s['gb_per_s'] or 0:.2f}</td></tr>")
    return "<table>" + "".join(rows) + "</table>"


def columns(events, end):
    """track -> {column: {kind: microseconds}}"""
    per = end / COLUMNS
    tracks = defaultdict(lambda: defaultdict(lambda: defaultdict(float)))
    for e in events:
        at, until = e["ts"], e["ts"] + e["dur"]
        column = min(COLUMNS - 1, int(at / per))
        while True:
            edge = (column + 1) * per
            tracks[e["tid"]][column][e["cat"]] += max(0, min(until, edge) - at)
            if until <= edge or column == COLUMNS - 1:
                break
            at, column = edge, column + 1
    return tracks


def timeline(trace):
    names = {e["tid"]: e["args"]["name"] for e in trace["traceEvents"] if e["name"] == "thread_name"}
    events = [e for e in trace["traceEvents"] if e["ph"] == "X"]
    end = max((e["ts"] + e["dur"] for e in events), default=0) or 1
    tracks, row = columns(events, end), 16
    out = [f'<svg viewBox="0 0 {LEFT + WIDTH + 20} {row * len(tracks) + 20}" width="{LEFT + WIDTH + 20}">']
    for i, tid in enumerate(sorted(tracks)):
        out.append(f'<g class="track"><text x="{LEFT - 5}" y="{row * i + 12}" text-anchor="end">'
                   f'{escape(names.get(tid, str(tid)))}</text>')
        for column, kinds in sorted(tracks[tid].items()):
            kind = max(kinds, key=kinds.get)
            share = min(1, sum(kinds.values()) / (end / COLUMNS))
            out.append(f'<rect x="{LEFT + WIDTH * column / COLUMNS:.1f}" y="{row * i}" width="{WIDTH / COLUMNS:.1f}" '
                       f'height="{row - 2}" fill="{COLOUR.get(kind, "#888")}" opacity="{max(share, 0.1):.2f}"/>')
        out.append("</g>")
    out.append(f'<text x="{LEFT + WIDTH}" y="{row * len(tracks) + 14}" text-anchor="end">{end / 1e6:.2f} s</text></svg>')
    return "".join(out)


def page(report, trace=None):
    series = report["series"]
    end = max(series[-1]["seconds"], 1e-9)
    flow = {"read": rates(series, "read"), "write": rates(series, "written")}
    most = max((v for spans in flow.values() for _, _, v in spans), default=0) or 1
    busy = {f"{s}-busy": shares(series, s, report["threads"] if s == "transform" else 1) for s in STAGES}
    limit = report["limit"]
    parts = [f"<h1>{escape(str(report['model']))}</h1>",
             f"<p>{report['bytes']['read'] / 1e9:.2f} GB in {report['totals']['wall']:.2f} s, "
             f"{report['totals']['gb_per_s'] or 0:.2f} GB/s, {report['threads']} workers, engine {escape(report['io']['engine'])}. "
             + (f"The others waited for <b>{escape(limit)}</b>." if limit else "No stage was waited for long.") + "</p>",
             table(report),
             "<h2>Throughput, GB/s</h2>", legend(flow), chart(flow, end, most, ""),
             "<h2>Busy, share of the time</h2>", legend(STAGES), chart(busy, end, 1, "")]
    if trace is not None:
        parts += ["<h2>Trace</h2>", legend([*STAGES, "wait"]), timeline(trace)]
    return ('<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"/><title>weighbridge export</title>'
            f"<style>{STYLE}</style></head><body>" + "\n".join(parts) + "</body></html>\n")


def load(path):
    with open(path, encoding="utf-8") as f:
        return json.load(f)


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("report")
    ap.add_argument("--trace")
    ap.add_argument("-o", "--out", default="report.html")
    o = ap.parse_args()
    report = load(o.report)
    if not report.get("series"):
        sys.exit(f"{o.report}: has no \"series\": expected what weighbridge export --report wrote")
    text = page(report, load(o.trace) if o.trace else None)
    with open(o.out, "w", encoding="utf-8") as f:
        f.write(text)


if __name__ == "__main__":
    main()
