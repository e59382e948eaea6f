"""A trained network as files that need nothing of this program; one format a file.

Every format starts from the same captured program (`program.py`) and hands back how to run what it wrote,
loaded anew, so that `agreement.py` can compare it with the network.
"""
