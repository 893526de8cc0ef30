"""`python -m hybridvideo`, also as `accelerate launch -m hybridvideo`."""

import sys

from hybridvideo.cli import main

if __name__ == "__main__":  # worker processes import this module under another name
    sys.exit(main())
