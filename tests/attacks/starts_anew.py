"Becomes another process image again and again, so that its clock might start anew."
# ends with: timeout
import os, sys
again = "import os, sys; os.execv(sys.executable, sys.orig_argv)"
os.execv(sys.executable, [sys.executable, "-S", "-c", again])
