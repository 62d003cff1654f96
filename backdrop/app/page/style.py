"""The page's style sheet, and a script for its sliders."""

from __future__ import annotations

PAGE_CSS = """
.gradio-container {width: 100% !important; max-width: 1240px !important; margin: 0 auto !important}
.head h1 {font-size: 1.7rem; margin: 0} .head p {margin: .25rem 0 0; line-height: 1.45}
.head .lead {font-size: 1.1rem} .head .local, .numbers small {color: var(--body-text-color-subdued)}
.status {margin: 0; line-height: 1.45; min-height: 2.9em} .numbers p {margin: 0 0 .9rem}
.numbers dl {display: grid; grid-template-columns: repeat(auto-fit, minmax(260px, 1fr)); gap: .9rem 1.4rem; margin: 0}
.numbers dt {color: var(--body-text-color-subdued)} .numbers dd {margin: 0; font-weight: 600}
.numbers small {display: block; font-weight: 400; line-height: 1.35}
footer {display: none !important}
@media (max-width: 640px) {.shot {height: 250px !important}}
"""

KEYS = """() => {
  let wait;
  document.addEventListener("keyup", event => {
    if (!event.target.matches("input[type=range]")) return;
    clearTimeout(wait);
    wait = setTimeout(() => event.target.dispatchEvent(new PointerEvent("pointerup", {bubbles: true})), 300);
  });
}"""
"""JavaScript. Gradio's sliders report a release when the mouse lets go, but not when a key does; this adds that."""
