"""What the browser's peers share: their options, and the page that speaks to them."""

from __future__ import annotations

import argparse
from pathlib import Path

import uvicorn
from fastapi import FastAPI
from fastapi.responses import HTMLResponse

from benchmarks.peers.model import FaceModel


def options(about: str) -> argparse.ArgumentParser:
    """The command line of a peer that serves pages."""
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--slow", type=float, default=1.0)
    return parser


def model(given: argparse.Namespace) -> FaceModel:
    """The model that these options ask for."""
    return FaceModel(given.cache, given.slow)


def serve(app: FastAPI, port: int, offer_path: str, input_path: str = "") -> None:
    """The page at / and the peer's own routes, until killed.

    The page posts its offer to `offer_path`, and to `input_path`, if any, once it is connected.
    """
    page = (Path(__file__).parent / "page.html").read_text()
    page = page.replace("{{offer_path}}", offer_path).replace("{{input_path}}", input_path)
    app.get("/")(lambda: HTMLResponse(page))
    uvicorn.run(app, host="127.0.0.1", port=port, log_level="warning")
