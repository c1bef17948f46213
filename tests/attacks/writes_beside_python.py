"Puts a module beside Python's own."
# ends with: Read-only file system
import os
open(os.path.dirname(os.__file__) + '/attack_was_here.py', 'w')
