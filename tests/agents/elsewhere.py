"""The program of an agent that takes this machine for another: `elsewhere.py NAME ...`."""

import sys

from agents import __main__, lock

lock.Where.here = lambda: lock.Where(sys.argv[1], "another boot", "another namespace")
del sys.argv[1]
sys.exit(__main__.main())
