"""When Python looks for garbage: neither while a command loads, nor in what is left when its process ends.

torch and the other libraries are some 300,000 objects that stay. To look through them again and again, for
cycles that nothing holds, is a quarter of the time that a short command takes.
"""

import gc


def put_off() -> None:
    """From the start of a process."""
    gc.disable()


def look_from_here_on() -> None:
    """In what the work makes; what was loaded before it, where that was put off, is never looked through."""
    if not gc.isenabled():
        gc.freeze()
        gc.enable()


def leave() -> None:
    """At the end of a process, whose memory is given back as a whole."""
    gc.freeze()
