"""`/docs`: the API for people, rendered from the OpenAPI document without script or network."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Iterator, Mapping
from html import escape
from typing import Any

from fastapi import APIRouter
from fastapi.responses import HTMLResponse

_STYLE = """
body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}
h2{font:600 1rem ui-monospace,monospace;margin:2rem 0 .2rem;padding-top:1rem}
h2{border-top:1px solid #8884}
p{margin:.2rem 0}ul{margin:.3rem 0}code{font-family:ui-monospace,monospace}
@media(prefers-color-scheme:dark){body{background:#111;color:#ddd}a{color:#8bf}}
"""
_STYLE_HASH = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
_POLICY = f"default-src 'none'; style-src 'sha256-{_STYLE_HASH}'; frame-ancestors 'none'"
_METHODS = ("get", "post", "put", "patch", "delete", "options")


def router(schema: Callable[[], Mapping[str, Any]]) -> APIRouter:
    """`/docs`."""
    routes = APIRouter(include_in_schema=False)

    @routes.get("/docs")
    async def docs() -> HTMLResponse:
        return HTMLResponse(render(schema()), headers={"Content-Security-Policy": _POLICY})

    return routes


def render(schema: Mapping[str, Any]) -> str:
    """A whole HTML page from an OpenAPI document."""
    title = escape(f"{schema['info']['title']} {schema['info']['version']}")
    body = "\n".join(_operations(schema))
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title>'
        f'<meta name="viewport" content="width=device-width"><style>{_STYLE}</style>'
        f"<h1>{title}</h1><p>{escape(schema['info'].get('description', ''))}</p>"
        '<p>For programs: <a href="openapi.json">openapi.json</a></p>'
        f"{body}</html>"
    )


def _operations(schema: Mapping[str, Any]) -> Iterator[str]:
    for path, item in schema["paths"].items():
        for method in _METHODS:
            if method in item:
                yield _operation(f"{method.upper()} {path}", item[method])


def _operation(heading: str, about: Mapping[str, Any]) -> str:
    lines = [
        f"<li><code>{escape(given['name'])}</code> ({escape(given['in'])}) "
        f"{escape(given.get('description', ''))}</li>"
        for given in about.get("parameters", ())
    ]
    takes = about.get("requestBody", {}).get("content", {})
    lines += [
        f"<li>takes <code>{escape(kind)}</code>{_model(body)}</li>" for kind, body in takes.items()
    ]
    for status, answer in about["responses"].items():
        gives = ", ".join(
            f"<code>{escape(kind)}</code>{_model(body)}"
            for kind, body in answer.get("content", {}).items()
        )
        said = escape(answer.get("description", ""))
        lines.append(f"<li>{escape(str(status))}: {said} {gives}</li>")
    summary = escape(about.get("summary", ""))
    return f"<h2>{escape(heading)}</h2><p>{summary}</p><ul>{''.join(lines)}</ul>"


def _model(body: Mapping[str, Any]) -> str:
    reference = body.get("schema", {}).get("$ref", "")
    return f" {escape(reference.rsplit('/', 1)[1])}" if reference else ""
