"Lists the processes of this machine."
# ends with: FileNotFoundError
import os
print(os.listdir('/proc'))
