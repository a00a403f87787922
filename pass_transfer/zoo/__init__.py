"""Zoo entries: a trained hypernetwork with its backbone, verified before it is loaded.

catalogue, verify and describe work without torch; entry needs it.
"""
