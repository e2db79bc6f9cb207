"""The report's style sheet: light or dark by the reader's setting, one column on a phone."""

CSS = """
:root {
  color-scheme: light dark;
  --page: #fbfaf8; --surface: #ffffff; --ink: #1d2126; --muted: #5b636d; --line: #dcdfe3; --accent: #2c62a6;
  --s1: #2c62a6; --s2: #b9501a; --s3: #1f7a55; --s4: #80479a; --good: #1c6b45; --bad: #a8321f;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #14171b; --surface: #1b1f24; --ink: #e7e9ec; --muted: #a2abb6; --line: #343a42; --accent: #86b4ea;
    --s1: #86b4ea; --s2: #f0a36c; --s3: #6fcba0; --s4: #cb9fe2; --good: #7cd3a6; --bad: #f2998a;
  }
}
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; }
body { margin: 0; background: var(--page); color: var(--ink);
  font: 1rem/1.55 system-ui, "Segoe UI", Roboto, sans-serif; }
header.top, main, footer { max-width: 66rem; margin: 0 auto; padding: 0 1.25rem; }
header.top { padding-top: 2.5rem; }
h1 { font-size: 1.75rem; line-height: 1.2; margin: 0 0 .3rem; letter-spacing: -.01em; }
h2 { font-size: 1.3rem; line-height: 1.3; margin: 0 0 .35rem; }
h3 { font-size: 1rem; margin: 1.75rem 0 .25rem; }
p { margin: 0 0 .75rem; max-width: 46rem; }
.lead, .muted { color: var(--muted); }
a { color: var(--accent); }
a:focus-visible, summary:focus-visible, .scroll:focus-visible { outline: 2px solid var(--accent);
  outline-offset: 2px; }
nav ul { list-style: none; display: flex; flex-wrap: wrap; gap: .15rem 1.1rem; margin: 1rem 0 0; padding: .6rem 0;
  border-block: 1px solid var(--line); font-size: .9rem; }
section { padding: 2.25rem 0 0; }
figure { margin: 1rem 0 0; padding: 1rem; background: var(--surface); border: 1px solid var(--line);
  border-radius: .5rem;
  min-width: 0; }
figcaption { color: var(--muted); font-size: .875rem; line-height: 1.45; margin-top: .7rem; }
figcaption b { color: var(--ink); font-weight: 600; }
.none { color: var(--muted); font-style: italic; margin: 0; }
.grid { display: grid; gap: 1rem; grid-template-columns: repeat(auto-fill, minmax(min(100%, 18.5rem), 1fr)); }
.two { grid-template-columns: repeat(auto-fit, minmax(min(100%, 24rem), 1fr)); align-items: start; }
p.legend { max-width: none; margin: .75rem 0 0; font-size: .9rem; }
.grid > figure, .two > figure { margin-top: 0; }
.grid, .two { margin-top: 1rem; }
svg.plot { display: block; width: 100%; height: auto; overflow: visible; }
svg.plot * { stroke-linejoin: round; }
video { display: block; width: 100%; max-width: 26rem; margin: 0 auto; border-radius: .35rem; background: #000; }
blockquote { margin: 0 0 1rem; padding-left: .9rem; border-left: 3px solid var(--accent); font-size: 1.15rem; }
.tiles { display: grid; gap: .75rem; grid-template-columns: repeat(auto-fit, minmax(9.5rem, 1fr));
  margin: 1.25rem 0 0; padding: 0; }
.tiles > div { background: var(--surface); border: 1px solid var(--line); border-radius: .5rem;
  padding: .7rem .9rem; }
.tiles dt { color: var(--muted); font-size: .82rem; line-height: 1.3; }
.tiles dd { margin: .1rem 0 0; font-size: 1.5rem; font-weight: 600; font-variant-numeric: tabular-nums; }
.tiles small { display: block; color: var(--muted); font-size: .8rem; font-weight: 400; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: .9rem; font-variant-numeric: tabular-nums; }
caption { text-align: left; padding: 0 0 .4rem; font-weight: 600; }
th, td { padding: .35rem .6rem; text-align: left; vertical-align: top; border-bottom: 1px solid var(--line); }
thead th { color: var(--muted); font-weight: 500; font-size: .82rem; vertical-align: bottom; }
tbody th { font-weight: 500; min-width: 7.5rem; }
td.n, th.n { text-align: right; white-space: nowrap; }
td.heat { background: color-mix(in srgb, var(--s1) calc(var(--share) * 55%), transparent); }
table.confusion tbody th { min-width: 0; }
table.confusion { width: auto; min-width: 100%; }
table.confusion td { text-align: center; border: 1px solid var(--line); }
table.confusion td.right { box-shadow: inset 0 0 0 2px var(--ink); }
.met { color: var(--good); font-weight: 600; } .missed { color: var(--bad); font-weight: 600; }
.rows { display: grid; grid-auto-flow: dense; grid-template-columns: minmax(7rem, 14rem) 1fr 9.5rem; gap: .3rem 1rem;
  align-items: center; font-size: .9rem; }
.rows > .label { grid-column: 1; } .rows > .track, .rows > .scale { grid-column: 2; } .rows > .value { grid-column: 3; }
.rows > .head { grid-column: 1 / -1; font-weight: 600; margin-top: .6rem; }
.rows > .head:first-child { margin-top: 0; }
.rows .value { font-variant-numeric: tabular-nums; white-space: nowrap; }
.rows .value small { color: var(--muted); }
.track { position: relative; height: 1.15rem; border-bottom: 1px solid var(--line); }
.track > i { position: absolute; display: block; }
.track .whisker { top: 50%; height: 3px; margin-top: -1px; border-radius: 2px; opacity: .45; }
.track .dot { top: 50%; width: .72rem; height: .72rem; margin: -.36rem 0 0 -.36rem; border-radius: 50%; }
.track .dot.k2 { border-radius: 1px; } .track .dot.k3 { border-radius: 1px; transform: rotate(45deg) scale(.9); }
.track .mark { top: 0; bottom: 0; width: 0; border-left: 1px dashed var(--muted); }
.track .bar { left: 0; top: 15%; height: 70%; border-radius: 0 3px 3px 0; min-width: 2px; }
.track .limit { top: -5%; height: 110%; width: 2px; background: var(--ink); }
.c1 { background: var(--s1); } .c2 { background: var(--s2); } .c3 { background: var(--s3); }
  .c4 { background: var(--s4); }
.scale { position: relative; height: 1.2rem; font-size: .78rem; color: var(--muted); }
.scale span { position: absolute; white-space: nowrap; transform: translateX(-50%); }
.scale span:first-child { transform: none; } .scale span:last-child { transform: translateX(-100%); }
.key { display: inline-flex; align-items: center; gap: .35rem; margin-right: 1rem; }
.key svg { width: .8rem; height: .8rem; }
dl.chain { display: grid; grid-template-columns: max-content 1fr; gap: .35rem 1rem; margin: 0; }
dl.chain dt { color: var(--muted); } dl.chain dd { margin: 0; overflow-wrap: anywhere; }
article { border-top: 1px solid var(--line); padding: 1rem 0 .25rem; }
article:first-of-type { border-top: 0; padding-top: 0; }
article h3 { margin-top: 0; }
.turns { list-style: none; margin: 0 0 .75rem; padding: 0; }
.turns b { color: var(--muted); font-weight: 500; }
.pair { display: grid; gap: .25rem 1.5rem; grid-template-columns: repeat(auto-fit, minmax(min(100%, 18rem), 1fr));
  margin-bottom: .75rem; }
.pair > div > b { display: block; color: var(--muted); font-weight: 500; font-size: .85rem; }
details { margin-top: .75rem; font-size: .95rem; } summary { cursor: pointer; color: var(--accent); }
code, .command { font-family: ui-monospace, "SF Mono", Menlo, Consolas, monospace; font-size: .86em;
  overflow-wrap: anywhere; }
.sheet { min-width: 44rem; } .sheet img { display: block; width: 100%; border-radius: .25rem .25rem 0 0; }
footer { color: var(--muted); font-size: .85rem; padding-block: 2.5rem 3rem; }
@media (max-width: 40rem) {
  header.top { padding-top: 1.5rem; }
  h1 { font-size: 1.45rem; }
  figure { padding: .8rem; }
  .rows { grid-template-columns: 1fr max-content; grid-auto-flow: row; gap: .1rem .75rem; }
  .rows > .value { grid-column: 2; } .rows > .track, .rows > .scale { grid-column: 1 / -1; }
  .rows > .track { height: .95rem; margin-bottom: .35rem; }
  th, td { padding-inline: .4rem; }
  dl.chain { grid-template-columns: 1fr; gap: 0; } dl.chain dd { margin-bottom: .5rem; }
}
@media print { figure, article { break-inside: avoid; } nav { display: none; } }
"""
