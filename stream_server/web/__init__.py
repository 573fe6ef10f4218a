"""HTTP only: routes, wire models, limits. Errors leave as problem documents."""

from stream_server.web.api import create_app
from stream_server.web.services import Services, WebLimits
from stream_server.web.sources import SourcePolicy

__all__ = ["Services", "SourcePolicy", "WebLimits", "create_app"]
