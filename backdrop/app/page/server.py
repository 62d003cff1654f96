"""Serving the page of `backdrop demo` on this machine."""

from __future__ import annotations

import ipaddress
import os
import signal
import socket
import sys
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

from backdrop.app.page.callbacks import ChosenThresholds
from backdrop.app.page.layout import build
from backdrop.app.page.style import KEYS, PAGE_CSS
from backdrop.app.segmenter import Segmenter
from backdrop.crf.parameters import CRFParams
from backdrop.errors import BackdropError

PORTS = 100
"""How many ports are tried from the one asked for."""


class Address(NamedTuple):
    """Where the page is served: an address of this machine, and a port (0: any that is free)."""

    host: str = "127.0.0.1"
    port: int = 7860


def loopback(host: str) -> bool:
    """Whether an address is reached from this machine alone."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


def free_port(host: str, port: int) -> int:
    """`port`, or the next one that is free. For 0, any free one.

    Raises:
        BackdropError: none of the next ports is free, or no such address is on this machine.
    """
    for candidate in range(port, min(port + PORTS, 65536)) if port else [0]:
        try:
            family, kind, protocol, _, address = socket.getaddrinfo(
                host.strip("[]"), candidate, type=socket.SOCK_STREAM
            )[0]
            with socket.socket(family, kind, protocol) as probe_:
                probe_.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe_.bind(address)
                found = probe_.getsockname()[1]
            with socket.socket() as probe_:  # Gradio asks for it there, too
                probe_.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe_.bind(("127.0.0.1", found))
            return found
        except socket.gaierror as fault:
            raise BackdropError(f"--host {host} is no address ({fault.strerror}); 127.0.0.1 is this machine") from None
        except OSError as fault:
            reason = fault.strerror
    raise BackdropError(f"no port from {port} on is free at {host} ({reason}); choose another with --port or --host")


def open_page(
    segmenter: Segmenter,
    thresholds: ChosenThresholds,
    crf: CRFParams | None,
    folder: Path,
    *,
    address: Address = Address(),  # noqa: B008
    max_upload: float = 200.0,
    about: str = "",
) -> Any:
    """Serve the page from another thread.

    Args:
        thresholds, crf, about: see `layout.build`.
        folder: for uploads and results.
        address: where a port is taken, the next free one is used.
        max_upload: MB (of 2**20 bytes, as the page counts them) that a file may have.

    Returns:
        gradio.Blocks, whose `local_url` is its address. `close()` ends it.

    Raises:
        BackdropError: no port is free, or the address is not one of this machine.
    """
    host, port = address.host, free_port(*address)
    # before Gradio is imported: else it sends statistics, and asks the network for its newest version
    os.environ |= {"GRADIO_ANALYTICS_ENABLED": "False", "HF_HUB_DISABLE_TELEMETRY": "1", "GRADIO_TEMP_DIR": str(folder)}
    # Gradio asks its server for a page once, which must not go through a proxy
    os.environ["NO_PROXY"] = os.environ["no_proxy"] = ",".join(
        filter(None, [os.environ.get("NO_PROXY") or os.environ.get("no_proxy", ""), host, "127.0.0.1", "localhost"])
    )
    import gradio as gr

    blocks = build(segmenter, thresholds, crf, folder, about)
    font = ["system-ui", "sans-serif"]
    theme = gr.themes.Base(primary_hue="blue", font=font, font_mono=["ui-monospace", "monospace"])
    dim = {"body_text_color_subdued": "*neutral_600", "block_info_text_color": "*neutral_600"}
    blocks.launch(
        server_name=host,
        server_port=port,
        share=False,
        inbrowser=False,
        quiet=True,
        prevent_thread_lock=True,
        ssr_mode=False,
        max_file_size=int(max_upload * 2**20),
        footer_links=[],
        run_history=False,
        enable_monitoring=False,
        state_session_capacity=20,
        theme=theme.set(**dim, **{f"{name}_dark": "*neutral_300" for name in dim}),
        css=PAGE_CSS,
        js=KEYS,
    )
    return blocks


def serve(
    segmenter: Segmenter,
    thresholds: ChosenThresholds,
    crf: CRFParams | None,
    address: Address,
    max_upload: float,
    *,
    about: str,
) -> None:
    """Serve the page until Ctrl-C. Uploads and results are removed then. See `open_page`."""
    host = address.host
    if not loopback(host):
        print(
            f"warning: --host {host} lets other machines open this page and send files to it; there is no password",
            file=sys.stderr,
        )
    with tempfile.TemporaryDirectory(prefix="backdrop-") as folder:
        limits: dict[str, Any] = {"address": address, "max_upload": max_upload}
        blocks = open_page(segmenter, thresholds, crf, Path(folder), about=about, **limits)
        print(f"open {blocks.local_url} in a browser; Ctrl-C ends it", flush=True)
        before = signal.signal(signal.SIGTERM, signal.default_int_handler)  # else uploads would stay on the disk
        try:
            blocks.block_thread()
        finally:
            blocks.close(verbose=False)
            signal.signal(signal.SIGTERM, before)
