"""Coinage in the browser: a local page on the same core as the commands.

The server imports no torch. What needs it runs in processes of its own, and everything that the page
shows is read from the workspace folder, so that a reload or a new server loses nothing.
"""
