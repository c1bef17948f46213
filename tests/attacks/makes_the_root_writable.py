"Changes the permissions of the root folder to what they are."
# ends with: Read-only file system
import os
os.chmod('/', os.stat('/').st_mode)
