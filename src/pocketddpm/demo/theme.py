"""How the page looks: theme and style sheet. Fonts are the machine's own."""

from gradio.themes import Base, Soft

SANS = ("ui-sans-serif", "system-ui", "sans-serif")
MONO = ("ui-monospace", "Consolas", "monospace")


def theme() -> Base:
    """Return a quiet theme; it follows the system into the dark."""
    return Soft(
        primary_hue="teal",
        secondary_hue="teal",
        neutral_hue="stone",
        radius_size="md",
        font=SANS,
        font_mono=MONO,
    ).set(
        # Labels are plain text, dark enough to read (4.5 to 1 and more).
        block_title_background_fill="none",
        block_title_background_fill_dark="none",
        block_title_text_color="*body_text_color",
        block_title_text_color_dark="*body_text_color",
        block_title_text_weight="600",
        block_title_padding="0",
        block_title_radius="0",
        body_text_color_subdued="*neutral_600",
        body_text_color_subdued_dark="*neutral_400",
        block_info_text_color="*neutral_600",
        block_info_text_color_dark="*neutral_400",
        button_primary_background_fill="*primary_700",
        button_primary_background_fill_hover="*primary_800",
        button_primary_background_fill_dark="*primary_700",
        button_primary_background_fill_hover_dark="*primary_600",
        checkbox_label_background_fill_selected="*primary_700",
        checkbox_label_background_fill_selected_dark="*primary_700",
        slider_color="*primary_700",
        slider_color_dark="*primary_500",
        color_accent="*primary_700",
    )


CSS = """
/* Gradio's own page asks the system alone, and would stay dark around a light page. */
body { background: var(--body-background-fill) !important; }
gradio-app { min-width: 0; }
.gradio-container { max-width: min(1120px, 100vw) !important; margin: 0 auto !important;
  box-sizing: border-box; }
.gradio-container .main, .gradio-container .wrap, .gradio-container .contain { max-width: 100%;
  min-width: 0; }
.dark { --color-accent: var(--primary-400); }
#header { align-items: center; }
#header h1 { font-size: 1.5rem; margin: 0; letter-spacing: -0.01em; }
#header p { margin: .15rem 0 0; color: var(--body-text-color-subdued); }
.lesson { color: var(--body-text-color-subdued); max-width: 46rem; }
.lesson p { margin: .25rem 0 .5rem; line-height: 1.5; }
.facts { display: flex; flex-wrap: wrap; gap: .15rem .9rem; margin: .4rem 0; font-size: .875rem;
  color: var(--body-text-color-subdued); font-variant-numeric: tabular-nums; }
.facts span { color: inherit; }
.facts span:not(:last-child)::after { content: "\\00b7"; margin-left: .9rem; opacity: .6; }
.progress { height: 6px; border-radius: 3px; overflow: hidden;
  background: var(--border-color-primary); margin-top: .5rem; }
.progress > div { height: 100%; background: var(--color-accent); }
.progress.still > div { opacity: .55; }
.panel { margin: 0; }
.panel figcaption { font-size: .875rem; font-weight: 600; margin-bottom: .35rem; }
img.pixels { image-rendering: pixelated; width: 100%; height: auto; display: block;
  border-radius: 4px; }
img.curve { width: 100%; max-width: 720px; height: auto; display: block; }
.empty { display: grid; place-items: center; min-height: 168px; padding: 1rem; text-align: center;
  border: 1px dashed var(--border-color-primary); border-radius: 8px;
  color: var(--body-text-color-subdued); }
/* A message says what is wrong; a word on every output would say it again, and after Stop. */
.gradio-container .wrap > .error, .gradio-container .wrap > .clear-status { display: none; }
.bottom { align-items: end; }
.scroll { overflow-x: auto; }
table.results { width: 100%; border: 0 !important;
  border-collapse: collapse; font-variant-numeric: tabular-nums; }
table.results thead, table.results tbody, table.results tr { border: 0 !important; }
table.results th { text-align: left; font-size: .8rem; color: var(--body-text-color-subdued); }
table.results th, table.results td { padding: .4rem .8rem .4rem 0 !important; white-space: nowrap;
  border: 0 !important; border-bottom: 1px solid var(--border-color-primary) !important; }
.lane { margin-bottom: 1rem; }
button:focus-visible, input:focus-visible, [role=tab]:focus-visible {
  outline: 2px solid var(--color-accent); outline-offset: 2px; }
@media (max-width: 640px) {
  .gradio-container { padding: .5rem !important; }
  .tab-container button { padding: 0 .55rem !important; }
  #header { flex-wrap: wrap !important; }
  #header > :first-child { flex-basis: 100% !important; }
  #model { flex: 1 1 0 !important; }
}
"""

# The system's choice is where a page starts; the button changes it for as long as it is open.
TOGGLE_DARK = "() => { document.body.classList.toggle('dark'); }"
