"""The compilers of other languages, which a machine may be without."""

from __future__ import annotations

import shutil

JAVA = shutil.which("java") and shutil.which("javac")
GO = shutil.which("go")
HAS_COMPILERS = bool(JAVA and GO)
