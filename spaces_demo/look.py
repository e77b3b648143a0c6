"""How the page looks, and the little it does in the browser."""

import gradio as gr

# No font is fetched from anywhere.
FONT = ["Inter", "Segoe UI", "system-ui", "sans-serif"]

THEME = gr.themes.Default(
    primary_hue=gr.themes.colors.teal,
    neutral_hue=gr.themes.colors.stone,
    radius_size=gr.themes.sizes.radius_lg,
    font=FONT,
    font_mono=["ui-monospace", "monospace"],
).set(
    body_background_fill="#f6f3ee",
    body_background_fill_dark="#1a1816",
    block_background_fill="transparent",
    block_background_fill_dark="transparent",
    block_border_width="0px",
    block_padding="0px",
    block_label_background_fill="transparent",
    block_label_background_fill_dark="transparent",
    input_background_fill="white",
    input_border_width="1px",
    checkbox_label_background_fill="transparent",
    checkbox_label_background_fill_dark="transparent",
    button_primary_background_fill="*primary_700",
    button_primary_background_fill_hover="*primary_800",
    button_primary_background_fill_dark="*primary_700",
    button_primary_text_color="white",
    button_secondary_background_fill="white",
    button_secondary_background_fill_dark="*neutral_700",
    button_secondary_border_color="*neutral_300",
    button_border_width="1px",
)

# One listener a component: what is clicked says what it does. A component that is drawn anew keeps the keyboard's
# place.
CLICKS = """
let place = -1, last = '';
const buttons = () => [...element.querySelectorAll('[data-action]')];
element.addEventListener('click', (event) => {
  const button = event.target.closest('[data-action]');
  if (!button || !element.contains(button)) return;
  const { action, id } = button.dataset;
  if (event.detail > 1 && last === `${action} ${id}`) return;  // the second half of a double click
  last = `${action} ${id}`;
  place = buttons().indexOf(button);
  trigger('click', { action, id });
});
watch('value', () => {
  if (place < 0 || (document.activeElement && document.activeElement !== document.body)) return;
  const all = buttons();
  if (all.length) all[Math.min(place, all.length - 1)].focus({ preventScroll: true });
});
"""
# What was asked for comes into view; on a phone it may be above. What asks to be pressed does not.
INTO_VIEW = """
watch('value', () => { if (!String(props.value).includes('u-empty')) element.scrollIntoView({ block: 'nearest' }); });
"""

CSS = """
.main.fillable { max-width: 1180px !important; width: 100% !important; padding: 14px clamp(12px, 3vw, 32px) !important;
  margin: 0 auto !important; }
/* Parts are made one by one: shown together, none is seen to move another. */
.main.fillable:not(:has(#head h1)), .main.fillable:not(:has(#strip p)),
.main.fillable:not(:has(.u-checks input)), .main.fillable:not(:has(#grid p, #grid li)) { visibility: hidden; }
.html-container, .block.padded { padding: 0; }
.block { overflow: visible; }
.form { background: transparent; border: 0; box-shadow: none; gap: 8px; }
footer { opacity: .7; }
.tabs { margin-top: 2px; }
.prose * { color: inherit; }
#head { padding: 10px 2px 2px; min-height: 116px; }
#head h1 { font-size: 1.7rem; letter-spacing: -0.02em; margin: 0; font-weight: 700; }
#head p { margin: 4px 0 0; max-width: 100ch; opacity: .82; }
#head small { opacity: .65; }
#person { background: var(--background-fill-primary); border: 1px solid var(--border-color-primary);
  border-radius: 16px; padding: 14px 16px; min-height: 328px; }
.u-panel-title { font-weight: 650; font-size: 1.02rem; margin: 0; }
.u-panel-title small { font-weight: 400; opacity: .7; display: block; }

.u-line > button { white-space: nowrap; align-self: end; height: 42px; padding: 0 16px; }
.u-cards { list-style: none; margin: 0; padding: 0; display: grid; gap: 12px;
  grid-template-columns: repeat(8, minmax(0, 1fr)); }
.u-cards.u-small { grid-template-columns: repeat(12, minmax(0, 1fr)); gap: 8px; }
.u-cards.u-three { grid-template-columns: repeat(3, minmax(0, 1fr)); max-width: 620px; }
.u-strip { list-style: none; margin: 0; padding: 2px 2px 8px; display: flex; gap: 8px; overflow-x: auto;
  scrollbar-width: thin; }
.u-card { position: relative; display: flex; flex-direction: column; margin: 0; min-width: 0;
  background: var(--background-fill-primary); border: 1px solid var(--border-color-primary); border-radius: 14px;
  overflow: hidden; transition: border-color .12s, box-shadow .12s; }
.u-card:hover { border-color: var(--color-accent); box-shadow: 0 4px 14px rgb(0 0 0 / .08); }
.u-card.u-tiny { flex: 0 0 92px; border-radius: 12px; }
.u-card.u-chosen { border-color: var(--color-accent); box-shadow: 0 0 0 2px var(--color-accent); }
.u-card button, .u-row button { all: unset; box-sizing: border-box; cursor: pointer; color: var(--body-text-color);
  font-family: inherit; }
.u-card button.u-main { display: flex; flex-direction: column; width: 100%; flex: 1; padding-bottom: 9px; }
.u-card button:focus-visible, .u-row button:focus-visible { outline: 3px solid var(--color-accent);
  outline-offset: -3px; border-radius: 12px; }
.u-card button[aria-pressed="true"] { outline: 3px solid var(--color-accent); outline-offset: -3px;
  border-radius: 12px; }
.u-picture { display: grid; place-items: center; aspect-ratio: 1; width: 100%; background: #fff; overflow: hidden; }
.u-picture img { width: 100%; height: 100%; object-fit: contain; display: block; margin: 0; }
.u-picture svg, .u-why svg { width: 46%; height: auto; fill: none; stroke: #a8a29e; stroke-width: 1.6; }
.u-title { font-weight: 600; font-size: .92rem; line-height: 1.25; padding: 8px 10px 0; overflow: hidden;
  display: -webkit-box; -webkit-line-clamp: 2; -webkit-box-orient: vertical; overflow-wrap: anywhere; }
.u-details { font-size: .79rem; opacity: .72; padding: 2px 10px 0; white-space: nowrap; overflow: hidden;
  text-overflow: ellipsis; }
#results .u-details { white-space: normal; display: -webkit-box; -webkit-line-clamp: 2;
  -webkit-box-orient: vertical; }
.u-imagined .u-details { opacity: 1; white-space: normal; padding-top: 6px; }
.u-card .u-score { margin: auto 10px 0; padding-top: 6px; font-size: .86rem; font-variant-numeric: tabular-nums;
  font-weight: 600; }
.u-bar { display: block; height: 4px; border-radius: 2px; margin-top: 4px; background:
  linear-gradient(90deg, var(--color-accent) calc(100% * var(--share)), var(--border-color-primary) 0); }
.u-card button.u-side { border-top: 1px solid var(--border-color-primary); text-align: center; padding: 9px 0;
  font-size: .86rem; font-weight: 600; color: #0f766e; }
.dark .u-card button.u-side { color: #2dd4bf; }
.u-card button.u-side:hover { background: var(--background-fill-secondary); }
.u-small .u-title { font-size: .78rem; padding: 6px 8px 0; height: calc(2.5em + 7px); }
.u-small .u-details { display: none; }
.u-small .u-main { padding-bottom: 6px !important; }
.u-tiny .u-title { font-size: .72rem; padding: 5px 7px 0; height: calc(2.5em + 6px); }
.u-tiny .u-details { display: none; }
.u-tiny .u-main { padding-bottom: 6px !important; }
.u-cross { position: absolute; top: 4px; right: 4px; width: 20px; height: 20px; border-radius: 50%;
  display: grid; place-items: center; background: rgb(28 25 23 / .62); color: #fff; font-size: 14px; opacity: .75; }
.u-tiny:hover .u-cross, .u-tiny button:focus-visible .u-cross { opacity: 1; background: #b91c1c; }
.u-heat { position: absolute; left: 0; right: 0; top: 0; aspect-ratio: 1; pointer-events: none; display: grid;
  align-items: end; justify-items: start; background: rgb(234 88 12 / calc(.5 * var(--heat))); }
.u-heat.u-against { background: rgb(37 99 235 / calc(.5 * var(--heat))); }
.u-heat span { margin: 4px; padding: 1px 6px; border-radius: 8px; font-size: .72rem; font-weight: 700;
  background: rgb(28 25 23 / .78); color: #fff; font-variant-numeric: tabular-nums; }
.u-legend { font-size: .82rem; line-height: 1.45; min-height: 1.45em; opacity: .78; margin: 2px 0 0; }
.u-card .u-moved { position: absolute; top: 6px; left: 6px; padding: 2px 8px; border-radius: 999px; font-size: .74rem;
  font-weight: 600; background: rgb(28 25 23 / .78); color: #fff; }
.u-badge { position: absolute; top: 8px; left: 8px; background: #0f766e; color: #fff; font-size: .76rem;
  font-weight: 700; padding: 3px 10px; border-radius: 999px; }

.u-notice { border: 1px dashed var(--border-color-primary); border-radius: 14px; padding: 14px 16px; }
#strip .u-notice, #why .u-notice { box-sizing: border-box; display: flex; flex-direction: column;
  justify-content: center; min-height: inherit; }
#strip > div, #strip .html-container, #why > div, #why .html-container, #strip .prose, #why .prose {
  min-height: inherit; }
.u-notice p { margin: 2px 0 0; opacity: .8; } .u-notice ul { margin: 4px 0 0; padding-left: 18px; }
.u-notice.u-bad { border: 1px solid #dc2626; background: rgb(220 38 38 / .07); }
.u-notice.u-good { border: 1px solid #0f766e; background: rgb(15 118 110 / .08); }
.u-why { display: flex; gap: 14px; align-items: center; background: var(--background-fill-primary);
  border: 1px solid var(--color-accent); border-radius: 14px; padding: 12px 14px; }
.u-why .u-picture { width: 70px; flex: 0 0 70px; border-radius: 10px; } .u-why p { margin: 3px 0; }
.u-why small { opacity: .65; }
#strip { min-height: 180px; } #results { min-height: 316px; } #why, #select-why { min-height: 96px; }
#grid, #select-grid { min-height: 300px; } #candidates { min-height: 250px; } #drawn { min-height: 420px; }
#files { background: var(--background-fill-primary); border: 1px dashed var(--border-color-accent) !important;
  border-radius: 14px; overflow: hidden; }
.label-wrap > span:first-child { text-align: left; }
button:focus-visible, [role="tab"]:focus-visible { outline: 3px solid var(--color-accent); outline-offset: 2px; }
input[type="checkbox"]:focus-visible, input[type="range"]:focus-visible { outline: 3px solid var(--color-accent);
  outline-offset: 2px; }

.u-ranking h3 { font-size: 1rem; margin: 0 0 8px; } .u-ranking ol { list-style: none; padding: 0; margin: 0; }
.u-row { margin: 0 0 6px; } .u-row button { display: grid; width: 100%; align-items: center; column-gap: 10px;
  grid-template-columns: 22px 52px minmax(0, 1fr) auto; background: var(--background-fill-primary);
  border: 1px solid var(--border-color-primary); border-radius: 12px; padding: 6px 12px 6px 8px; }
.u-row button:hover { border-color: var(--color-accent); }
.u-row .u-rank { grid-row: 1 / 3; text-align: right; opacity: .6; font-variant-numeric: tabular-nums; }
.u-row .u-picture { grid-row: 1 / 3; width: 52px; border-radius: 8px; }
.u-row .u-title { padding: 0; -webkit-line-clamp: 1;
  align-self: end; } .u-row .u-details { grid-column: 3; grid-row: 2; padding: 0; align-self: start; }
.u-row .u-score { grid-column: 4; grid-row: 1; font-weight: 600; font-size: .86rem; text-align: right;
  align-self: end; }
.u-row .u-moved { grid-column: 4; grid-row: 2; font-size: .76rem; opacity: .7; text-align: right; align-self: start; }
.u-row .u-moved.u-up { color: #0f766e; opacity: 1; font-weight: 600; } .dark .u-row .u-moved.u-up { color: #2dd4bf; }
#anyone, #person-found { min-height: 480px; }

.u-imagined { list-style: none; margin: 0; padding: 0; display: grid; gap: 12px;
  grid-template-columns: repeat(4, minmax(0, 1fr)); }
.u-imagined .u-card { padding-bottom: 10px; }
.u-words { font-size: .84rem; }
.u-words span { display: inline-block; padding: 1px 9px; margin: 3px 4px 0 0; border-radius: 999px;
  background: var(--background-fill-secondary); border: 1px solid var(--border-color-primary); }

@media (max-width: 1000px) { .u-cards { grid-template-columns: repeat(4, minmax(0, 1fr)); }
  .u-cards.u-small { grid-template-columns: repeat(8, minmax(0, 1fr)); } }
@media (max-width: 640px) {
  .tab-container button { padding: 0 5px !important; font-size: 12px !important; }
  .u-imagined { grid-template-columns: repeat(2, minmax(0, 1fr)); gap: 9px; }
  #head { min-height: 166px; } #head h1 { font-size: 1.35rem; }
  .u-cards { grid-template-columns: repeat(2, minmax(0, 1fr)); gap: 9px; }
  .u-cards.u-small { grid-template-columns: repeat(3, minmax(0, 1fr)); }
  .u-cards.u-three { gap: 6px; } #results { min-height: 900px; } #person { padding: 10px; min-height: 440px; }
  .u-card button.u-side { padding: 12px 0; }
  .u-line > * { flex: 1 1 100% !important; } .u-line > .form { flex: 1 1 55% !important; min-width: 0 !important; }
  .u-line > button { flex: 1 1 30% !important; min-width: 0 !important; padding: 0 8px !important;
    font-size: .86rem !important; line-height: 1.2; white-space: normal; }
  .u-checks { flex-direction: column; gap: 6px; } #strip { min-height: 202px; } .u-legend { min-height: 4.35em; }
  .u-sides { flex-direction: column; } #anyone, #person-found { min-height: 0; }
}
@media (prefers-reduced-motion: reduce) { * { transition: none !important; } }
"""
