"""The page in the browser: plain functions, and beside each of them a `*_tab.py` that wires it up.

Only the `*_tab.py` files, `page.py`, `theme.py` and `server.py` know Gradio.
"""
