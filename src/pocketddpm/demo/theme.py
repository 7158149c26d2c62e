"""How the page looks: its theme; `style.css` is its style sheet. Fonts are the machine's own."""

from gradio.themes import Base, Soft

SANS = ("ui-sans-serif", "system-ui", "sans-serif")
MONO = ("ui-monospace", "Consolas", "monospace")


def theme() -> Base:
    """Return a quiet theme; it follows the system into the dark."""
    hues = {"primary_hue": "teal", "secondary_hue": "teal", "neutral_hue": "stone"}
    return Soft(**hues, radius_size="md", font=SANS, font_mono=MONO)


# The system's choice is where a page starts; the button changes it for as long as it is open.
TOGGLE_DARK = "() => { document.body.classList.toggle('dark'); }"
