"Starts a shell."
# ends with: PermissionError
import subprocess
subprocess.run(['/bin/sh', '-c', 'echo out'], check=True)
