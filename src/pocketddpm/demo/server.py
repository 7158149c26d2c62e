"""Serving the page on this machine, and to nobody else."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pocketddpm.demo.model_list import ModelList
from pocketddpm.errors import ConfigError

HOST = "127.0.0.1"
# The browser itself refuses what is not from here, whatever a library would like to load.
POLICY_NAME = b"content-security-policy"
POLICY = (
    b"default-src 'self' data: blob:; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; "
    b"style-src 'self' 'unsafe-inline'; worker-src 'self' blob:"
)
QUIET = {
    "GRADIO_ANALYTICS_ENABLED": "False",
    "HF_HUB_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "POCKETDDPM_OFFLINE": "1",
}


class Policy:
    """ASGI middleware: every page carries the Content-Security-Policy."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Pass a request on, and add the policy to its answer."""

        async def with_policy(message: Any) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", []), (POLICY_NAME, POLICY)]
            await send(message)

        await self.app(scope, receive, with_policy)


@contextmanager
def serving(models: ModelList, port: int | None = None) -> Iterator[str]:
    """Serve the page in the background; yields its address, and ends with the block.

    port: None takes the first free one from 7860. Raises ConfigError when Gradio is missing or the
    port is taken.
    """
    os.environ.update(QUIET)  # before Gradio is imported: it reads them then
    with tempfile.TemporaryDirectory(prefix="pocketddpm-demo-") as folder:
        os.environ["GRADIO_TEMP_DIR"] = folder
        try:
            import gradio  # noqa: F401
        except ImportError:
            raise ConfigError(
                "the demo needs the extra 'demo': pip install 'pocketddpm[demo]'"
            ) from None
        from starlette.middleware import Middleware
        from starlette.middleware.trustedhost import TrustedHostMiddleware

        from pocketddpm.demo import page, theme

        # A foreign page that points its own name at this machine is refused.
        hosts = Middleware(TrustedHostMiddleware, allowed_hosts=[HOST, "localhost"])
        blocks = page.build(models, Path(folder))
        try:
            _, address, _ = blocks.queue().launch(
                server_name=HOST,
                server_port=port,
                prevent_thread_lock=True,
                quiet=True,
                share=False,
                show_error=True,
                ssr_mode=False,
                pwa=False,
                mcp_server=False,
                run_history=False,
                enable_monitoring=False,
                footer_links=[],
                theme=theme.theme(),
                css_paths=Path(__file__).with_name("style.css"),
                app_kwargs={"middleware": [hosts, Middleware(Policy)]},
            )
        except OSError:
            where = "7860 to 7959" if port is None else str(port)
            raise ConfigError(
                f"no page can be served on {HOST}, port {where}: another program is there; give "
                "another --port"
            ) from None
        try:
            yield address
        finally:
            blocks.close(verbose=False)
