"Opens a library for writing."
# ends with: Read-only file system
import os
open(os.__file__, 'a')
