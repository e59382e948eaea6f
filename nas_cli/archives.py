"""What may be wrong with a zip archive, which .npz files and checkpoints are."""

import lzma
import struct
import zipfile
import zlib

BROKEN = (
    OSError,
    ValueError,
    EOFError,
    RuntimeError,
    struct.error,
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
)
"""What reading a damaged one may raise: one flipped bit may ask for a password or for another format."""
