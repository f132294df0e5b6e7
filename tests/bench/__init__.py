"""`make bench`: the figures that jobd is held to, each beside a baseline of the same run."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "real"))  # realdaemon.py: the daemon as tests use it
sys.path.insert(0, str(Path(__file__).parent.parent / "docker"))  # dockerdaemon.py: the same in containers
