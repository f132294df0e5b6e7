"""The agent: one process for one user, called into life by a backend, calling home. Start at agent.py.

Imports schemas and, beyond the standard library, trio, trio-websocket and attrs; ships as a zipapp for Python >= 3.10.
"""
