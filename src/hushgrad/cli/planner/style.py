"""How the page looks, in light and dark."""

__all__ = ["STYLE"]

STYLE = """
:root {
  --paper: #f7f6f3; --panel: #ffffff; --ink: #1d2430; --faint: #5b6472; --line: #dcdad3;
  --accent: #0f5c6e; --warn: #7a3d00; --warn-paper: #fdf1e2;
}
body.body--dark {
  --paper: #14181f; --panel: #1c222b; --ink: #e8e6e1; --faint: #a7afbb; --line: #333c48;
  --accent: #6cc5d6; --warn: #ffd29b; --warn-paper: #3a2a14;
}
body { background: var(--paper); color: var(--ink); --q-primary: var(--accent) !important;
  font-family: ui-sans-serif, system-ui, sans-serif; }
.nicegui-content { padding: 0; }
.planner { width: 100%; max-width: 70rem; margin: 0 auto; padding: 1.5rem 1rem 3rem; }
.planner h1 { font: 600 1.5rem/1.2 ui-serif, Georgia, serif; margin: 0 0 1rem; color: var(--ink); }
.columns { display: grid; grid-template-columns: minmax(0, 2fr) minmax(0, 3fr); gap: 1rem; }
.panel { background: var(--panel); border: 1px solid var(--line); border-radius: .5rem;
  padding: 1rem 1.25rem; margin-bottom: 1rem; min-width: 0; }
.dial { margin-bottom: .6rem; }
.planner .q-field__native, .planner .q-field__label, .planner .q-tab__label { color: var(--ink); }
.planner .q-tab { min-height: 2.5rem; }
.solver { display: grid; grid-template-columns: 1fr auto; gap: .75rem; align-items: center;
  border-top: 1px solid var(--line); padding-top: 1rem; margin-top: .5rem; }
.solver .q-btn { color: var(--panel); background: var(--accent); }
.answer { display: flex; align-items: baseline; gap: .75rem; }
.answer .what { color: var(--faint); }
.answer .epsilon { font: 600 3rem/1.1 ui-serif, Georgia, serif; color: var(--accent);
  font-variant-numeric: tabular-nums; }
.facts { display: grid; grid-template-columns: repeat(auto-fit, minmax(11rem, 1fr));
  gap: .75rem 1.25rem; margin: 1rem 0; }
.facts dt { color: var(--faint); font-size: .85rem; }
.facts dd { margin: 0; font-size: 1.15rem; font-variant-numeric: tabular-nums; }
.facts small { display: block; font-size: .78rem; line-height: 1.35; color: var(--faint); }
.warning { background: var(--warn-paper); color: var(--warn); border-radius: .4rem;
  padding: .5rem .75rem; margin: .5rem 0; overflow-wrap: anywhere; }
.ways { width: 100%; border-collapse: collapse; font-size: .9rem; }
.ways th { text-align: left; font-weight: 400; }
.ways thead th { color: var(--faint); font-size: .8rem; }
.ways td, .ways th { border-top: 1px solid var(--line); padding: .35rem .5rem .35rem 0; }
.ways thead th { border-top: 0; }
.ways td:nth-child(2), .ways th:nth-child(2) { text-align: right;
  font-variant-numeric: tabular-nums; }
.ways td:nth-child(3), .ways th:nth-child(3) { padding-left: .75rem; }
.ways td:nth-child(3) { color: var(--faint); font-size: .8rem; }
.ways .tight th, .ways .tight td:nth-child(2) { font-weight: 600; color: var(--accent); }
.code, .code .q-tab-panel { background: transparent; padding: 0; }
.planner .nicegui-code { width: 100%; background: var(--paper); border: 1px solid var(--line);
  border-radius: .4rem; }
.planner pre { color: var(--ink); white-space: pre-wrap; overflow-wrap: anywhere;
  font-size: .85rem; }
.foot { color: var(--faint); font-size: .85rem; }
@media (max-width: 48rem) {
  .columns { grid-template-columns: minmax(0, 1fr); }
  .ways td:nth-child(3), .ways th:nth-child(3) { display: none; }
}
"""
