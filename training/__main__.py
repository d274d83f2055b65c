"""``python -m training ...`` is ``vae train ...``, for torchrun, which starts modules.

The command line is parsed in one place, which training does not know: it is run in the place of this module.
"""

import runpy
import sys

if __name__ == "__main__":
    sys.argv = ["vae", "train", *sys.argv[1:]]
    runpy.run_module("vae", run_name="__main__", alter_sys=True)
