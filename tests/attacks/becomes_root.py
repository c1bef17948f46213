"Becomes the administrator."
# ends with: error
import os
os.setuid(0)
