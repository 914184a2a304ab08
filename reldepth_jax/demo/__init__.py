"""The network in a browser: a folder of static files, and a server for this machine."""
