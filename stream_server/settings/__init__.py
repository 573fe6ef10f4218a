"""All that an operator can set: one YAML file, the environment and the command line, in one type.

`schema` says what there is, `load` reads the layers, `show` writes them out.
"""

from stream_server.settings.load import load
from stream_server.settings.schema import Settings
from stream_server.settings.show import to_yaml

__all__ = ["Settings", "load", "to_yaml"]
