"""`python -m secateur`: the command, for launchers that take a module.

The command's words flow in, its exit status flows out.
"""

import sys

from secateur.commands.main import main

if __name__ == "__main__":
    sys.exit(main())
