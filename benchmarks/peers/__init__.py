"""What people would use in maskstream's place, each in a file and a process of its own.

All do the same work with the same weights, clip and load (`model.py`); only the architecture
differs. Where a peer's packages contradict ours it has a virtual environment of its own
(`environments.py`), so these files import of maskstream only what needs numpy, OpenCV, OpenVINO
and structlog.
"""
