"""Starts poc or poc-runtime in this checkout, as the console scripts of an installed poc do.

scripts/poc runs it with ``python -I -S``. Without ``site`` a start is 2 ms shorter, so the places to import from are
named here; a file that is run, not ``python -m poc``, saves 3 ms more (`runpy`).
"""

import os
import sys

checkout = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
environment = os.path.dirname(os.path.dirname(os.path.abspath(sys.executable)))
version = f"python{sys.version_info.major}.{sys.version_info.minor}"
sys.path += [checkout, f"{environment}/lib/{version}/site-packages"]

del sys.argv[0]  # leaves the name poc was called by, as a console script finds it
if sys.argv[0] == "poc-runtime":
    from poc.runtime.__main__ import main
else:
    from poc.__main__ import main
main()
