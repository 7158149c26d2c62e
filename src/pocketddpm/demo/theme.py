"""How the page looks: its theme; `style.css` is its style sheet. Fonts are the machine's own."""

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
        # All begins at one edge: text, fields, buttons and tabs.
        block_padding="*spacing_lg 0",
        block_background_fill="none",
        block_background_fill_dark="none",
        # Outlines that are seen: 3 to 1 and more.
        input_border_color="*neutral_500",
        input_border_color_dark="*neutral_500",
        input_border_width="1px",
        checkbox_border_color="*neutral_500",
        checkbox_border_color_dark="*neutral_500",
        checkbox_label_border_color="*neutral_300",
        checkbox_label_border_width="1px",
        button_secondary_border_color="*neutral_500",
        button_secondary_border_color_dark="*neutral_500",
        button_border_width="1px",
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


# The system's choice is where a page starts; the button changes it for as long as it is open.
TOGGLE_DARK = "() => { document.body.classList.toggle('dark'); }"
