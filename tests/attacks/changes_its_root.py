"Makes another folder its root, the first step of a known way out."
# ends with: PermissionError
import os
os.mkdir('/tmp/attack')
os.chroot('/tmp/attack')
