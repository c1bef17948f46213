"Reads a file outside by a symbolic link."
# ends with: FileNotFoundError
import os
os.symlink(ROOT + '/settings.ini', '/tmp/link')
print(open('/tmp/link').read())
