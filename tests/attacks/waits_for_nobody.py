"Opens a pipe that nobody else will open."
# ends with: timeout
import os
os.mkfifo('/tmp/attack')
open('/tmp/attack')
