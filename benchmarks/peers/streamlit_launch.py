"""Starts `streamlit run` on `streamlit_page.py`, quietly, at a port: it takes no other way."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", required=True)
    given, rest = parser.parse_known_args()
    quiet = ["--server.headless=true", "--browser.gatherUsageStats=false"]
    quiet += ["--server.fileWatcherType=none", f"--server.port={given.port}"]
    page = str(Path(__file__).with_name("streamlit_page.py"))
    words = [sys.executable, "-m", "streamlit", "run", page, *quiet, "--", *rest]
    os.execv(sys.executable, words)
