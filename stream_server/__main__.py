"""`python -m stream_server` is `maskstream`."""

from stream_server.cli import main

main()
